"""The simulator: a policy over a workload, with the very code that decides in a broker.

Pure: ``round.run`` places, ``burst.decide`` opens and closes, ``burst.leavers`` sends home, ``budget.Ledger`` counts. What
is simulated is only the world around them: VMs arrive, boot, run and end. Times are seconds from the start of the
workload; with one seed equal input gives equal output.

What the world is simpler in than the real one: every VM boots in the same time, hosts do not fail, who is suspended
makes room at once, nothing is reserved, images are there already, and what a VM does is over when its runtime is.
"""

from placement.simulate.data import DAY_S, Result, Sample, Setting, Tally, Task
from placement.simulate.world import Progress, simulate

__all__ = ["DAY_S", "Progress", "Result", "Sample", "Setting", "Tally", "Task", "simulate"]
