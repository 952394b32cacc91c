"""Calls functions of a deployed app: `call_deployed.py APP FUNCTION [ARGUMENT]`, prints what comes back."""

import sys

import modal

name, function, *arguments = sys.argv[1:]
find = getattr(modal.Function, "from_name", None) or modal.Function.lookup
if not hasattr(modal.Function, "from_name") or modal.__version__.startswith("0.63"):
    find = modal.Function.lookup
try:
    print("answer:", find(name, function).remote(*(float(a) for a in arguments)), flush=True)
except Exception as raised:
    print(f"raised {type(raised).__name__}: {raised}", flush=True)
