//! mote's agent: process 1 of a guest that holds containers (docs/agent.md).

fn main() {}
