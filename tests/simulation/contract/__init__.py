"""The same cases on the ports in memory, on moto and on the local cloud's services, so that they can't drift apart."""
