//! sv3 policy.
