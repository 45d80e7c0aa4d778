"""Read by each Python that `scripts/test` starts, first of all.

Most of these processes import for seconds and end soon. A seventh of that time went into looking
for garbage among what they import, none of which is garbage.
"""

import gc

gc.set_threshold(50_000, 100, 100)
