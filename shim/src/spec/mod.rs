//! The OCI runtime specification of a container, as what the agent is asked for; what it does not do is refused by its name.
