"""The Kubernetes files: real schemas for what Kubernetes owns, the API reference for KubeRay's."""

from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError

from stem_complete.serving.service.config import ServiceConfig

FOLDER = Path(__file__).parents[3] / "cluster" / "kubernetes"
KUBERNETES = "1.37"

# ray.io/v1 of KubeRay 1.6: ray-project.github.io/kuberay/reference/api
FIELDS = {
    "RayClusterSpec": {
        *(
            "authOptions",
            "autoscalerOptions",
            "enableInTreeAutoscaling",
            "gcsFaultToleranceOptions",
        ),
        *("headGroupSpec", "headServiceAnnotations", "managedBy", "rayVersion", "suspend"),
        "workerGroupSpecs",
    },
    "AuthOptions": {"enableK8sTokenAuth", "mode", "secretName"},
    "AutoscalerOptions": {
        *("env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources"),
        *("securityContext", "upscalingMode", "version", "volumeMounts"),
    },
    "HeadGroupSpec": {"enableIngress", "headService", "rayStartParams", "serviceType", "template"},
    "WorkerGroupSpec": {
        *("groupName", "idleTimeoutSeconds", "maxReplicas", "minReplicas", "numOfHosts"),
        *("rayStartParams", "replicas", "scaleStrategy", "suspend", "template"),
    },
    "RayServiceSpec": {
        *("deploymentUnhealthySecondThreshold", "excludeHeadPodFromServeSvc", "managedBy"),
        *("rayClusterConfig", "rayClusterDeletionDelaySeconds", "serveConfigV2", "serveService"),
        *("serviceUnhealthySecondThreshold", "suspend", "upgradeStrategy"),
    },
    "RayJobSpec": {
        *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy"),
        *("entrypoint", "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId"),
        *("managedBy", "metadata", "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes"),
        *("submissionMode", "submitterConfig", "submitterPodTemplate", "suspend"),
        "ttlSecondsAfterFinished",
    },
}


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


CLUSTERS = {
    "raycluster": documents("raycluster")[0]["spec"],
    "rayjob": documents("rayjob")[0]["spec"]["rayClusterSpec"],
    "rayservice": documents("rayservice")[0]["spec"]["rayClusterConfig"],
}
GROUPS = [
    pytest.param(group, id=f"{name}-{group.get('groupName', 'head')}")
    for name, cluster in CLUSTERS.items()
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
]
PODS = [
    *GROUPS,
    *(
        pytest.param(document["spec"], id=document["metadata"]["name"])
        for document in documents("mlflow")
        if document["kind"] in ("Deployment", "StatefulSet")
    ),
]


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(document, id=f"{name}-{document['kind']}-{document['metadata']['name']}")
        for name in ("base", "mlflow")
        for document in documents(name)
    ],
)
def test_kubernetes_would_take_it(document):
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("group", GROUPS)
def test_kubernetes_would_take_the_pods_of_a_ray_cluster(group):
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_schemas_notice_a_wrong_field():
    pod = {"spec": {"containers": [{"name": "a", "volumeMount": []}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "PodTemplate", "template": pod}, KUBERNETES, strict=True
        )


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_kuberay_knows_the_fields_of_a_cluster(cluster):
    assert set(cluster) <= FIELDS["RayClusterSpec"]
    assert set(cluster["authOptions"]) <= FIELDS["AuthOptions"]
    assert set(cluster.get("autoscalerOptions", {})) <= FIELDS["AutoscalerOptions"]
    assert set(cluster["headGroupSpec"]) <= FIELDS["HeadGroupSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= FIELDS["WorkerGroupSpec"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_kuberay_knows_the_fields_of_a_job():
    (job,) = documents("rayjob")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= FIELDS["RayJobSpec"]
    # KubeRay refuses retries on a cluster that is not the job's own.
    assert job["spec"]["backoffLimit"] > 0
    assert "clusterSelector" not in job["spec"]


def test_kuberay_knows_the_fields_of_a_service():
    (service,) = documents("rayservice")
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    assert set(service["spec"]) <= FIELDS["RayServiceSpec"]
    environment = CLUSTERS["rayservice"]["headGroupSpec"]["template"]["spec"]["containers"][0][
        "envFrom"
    ]
    # Without this secret pods do not start, and so no service that asks for no token.
    assert {"secretRef": {"name": "stem-complete-tokens"}} in environment


def test_the_service_on_kubernetes_is_that_of_any_cluster():
    (service,) = documents("rayservice")
    plain = yaml.safe_load((FOLDER.parent / "serve.yaml").read_text())
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == plain


def test_the_service_takes_its_arguments_and_refuses_others():
    plain = yaml.safe_load((FOLDER.parent / "serve.yaml").read_text())
    (application,) = plain["applications"]
    config = ServiceConfig.model_validate(application["args"])
    assert config.use_gpu
    with pytest.raises(ValidationError, match="modell"):
        ServiceConfig.model_validate({"modell": "released"})
    with pytest.raises(ValidationError, match="most_replicas"):
        ServiceConfig(replicas=3, most_replicas=2)


def test_the_job_has_the_same_pods_as_the_cluster():
    cluster, job = CLUSTERS["raycluster"], CLUSTERS["rayjob"]
    assert job["headGroupSpec"] == cluster["headGroupSpec"]
    assert job["workerGroupSpecs"][0]["template"] == cluster["workerGroupSpecs"][0]["template"]


@pytest.mark.parametrize("pod", PODS)
def test_pods_are_unprivileged_and_bounded(pod):
    spec = pod["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]["memory"]
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("group", GROUPS)
def test_a_pod_that_is_told_to_go_lives_until_ray_is_drained(group):
    spec = group["template"]["spec"]
    environment = documents("base")[0]["data"]
    drain_s = float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert drain_s < spec["terminationGracePeriodSeconds"]
    (container,) = spec["containers"]
    assert {"configMapRef": {"name": "stem-complete"}} in container["envFrom"]


@pytest.mark.parametrize("group", GROUPS)
def test_mounts_have_volumes_and_claims(group):
    spec = group["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {
        mount["mountPath"]: volumes[mount["name"]]
        for mount in spec["containers"][0]["volumeMounts"]
    }
    assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    claims = {item["metadata"]["name"] for item in documents("base") if "Claim" in item["kind"]}
    assert mounts["/shared"]["persistentVolumeClaim"]["claimName"] in claims


def test_the_head_trains_nothing_and_only_the_gpu_group_has_gpus():
    for cluster in CLUSTERS.values():
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for group in cluster["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert has_gpu == (group["groupName"] == "gpu")
