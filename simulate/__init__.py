"""Tries a policy on a workload: reads traces, has ``placement.simulate`` run them, and reports."""
