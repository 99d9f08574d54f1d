"""Runs in the SVM lab: towers under the svm engine; prints what their levels saw and their guests kept, as JSON.

Its argument names the group of cases to run.
"""

from __future__ import annotations

import sys
from functools import partial

import debug_cases
import event_cases
import exception_cases
import mode_cases
import reason_cases
import state_cases
import switcher_cases
from print_cases import print_cases

GROUPS = {
    "instructions": {**reason_cases.possible("svm"), **state_cases.CASES, **switcher_cases.CASES},
    "events": {**exception_cases.CASES, **event_cases.CASES, **debug_cases.CASES},
    "modes": mode_cases.possible("svm"),
}

if __name__ == "__main__":
    print_cases({name: partial(case, "svm") for name, case in GROUPS[sys.argv[1]].items()})
