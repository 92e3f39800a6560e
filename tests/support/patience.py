"""How long a test waits before it takes something to hang."""

from __future__ import annotations

import os

# Named here and not in pytest's settings, for a mutant's tests are expected to wait for what never comes.
VARIABLE = "RUNENGINE_PATIENCE"

# What is waited for comes within a second, on a machine that has much else to do within many: no test is
# decided by this.
SECONDS = int(os.environ.get(VARIABLE, "120"))
