"""What every rank of a test needs, loaded once in the process that ranks are forks of."""

import gc

import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401

import compact_ds.train  # noqa: F401

# DeepSpeed collects garbage at every start; what was loaded here need not be looked through each time.
gc.freeze()
