"""What a processor is: exit reasons, events, vCPU state and the fixed places of a PC."""
