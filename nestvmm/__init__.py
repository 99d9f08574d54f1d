"""nestvmm: towers of hypervisors on /dev/kvm, nested flat.

    cli          the commands
    report       one page of benchmarks and runs
    bench        measurements
    lab trace stats    emulated machines whose KVM nests; what happened in a run, and what happens in it now
    nesting      towers, the designation table, the router, memory maps between levels
    engines      how level n runs and which of its events trap            hypervisors  software of levels 1 to n-1
    devices      what L0 offers a guest                                   loaders      image formats
    x86          exit reasons, events, vCPU state
    kvm          the thin layer over /dev/kvm, usable alone

Imports point down only. `nestvmm._native` is the C of `native/`: the KVM ioctls and the hot path; `nestvmm._dispatch`
is that of `native/python/`: the loop that has Python handle events, and the registers.
"""
