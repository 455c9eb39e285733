//! What fuzzing does to layers.
