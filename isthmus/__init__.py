"""Isthmus: one API for VMs, networks and storage over your own hosts and the clouds you rent."""
