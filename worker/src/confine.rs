//! Placeholder.
/// What was achieved.
pub struct Achieved {
    /// Landlock ABI.
    pub landlock_abi: u32,
}
/// Nothing yet.
pub fn worker() -> Result<Achieved, String> {
    Ok(Achieved { landlock_abi: 0 })
}
