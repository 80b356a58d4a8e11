"""The private network across sites: the plan, and the agent that applies it on a gateway."""
