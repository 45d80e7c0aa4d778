"""Holds a run until it is killed, and says so.

holding.py RUN_FOLDER
"""

import sys
import time

from stem_complete.storage.claim import claimed

with claimed(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
