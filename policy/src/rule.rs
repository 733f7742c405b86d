//! One rule of a policy, as a reader and the audit see it.

use std::fmt;

/// A rule allows its syscall if all limits hold. Of several rules for one syscall, one must allow it.
#[derive(Debug)]
pub struct Rule {
    /// Name of the syscall.
    pub syscall: &'static str,
    /// Limits of its arguments. None: any arguments.
    pub limits: &'static [Limit],
    /// Which module makes the call, and why.
    pub why: &'static str,
}

/// What one argument must be. Shown as `arg1 == 0x2 (F_SETFD)`.
#[derive(Debug)]
pub struct Limit {
    /// Which argument, from 0.
    pub arg: usize,
    /// How many of its bits are compared.
    pub width: Width,
    /// How it is compared.
    pub test: Test,
    /// The value to compare with.
    pub value: u64,
    /// The kernel's name for the value.
    pub meaning: &'static str,
}

/// How many bits of an argument count: as many as the kernel itself reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// An int.
    Low32,
    /// A long.
    All64,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// All its bits must be equal.
    Equal,
    /// The bits of this mask must be equal. The others may have any value.
    Masked(u64),
}

impl Rule {
    /// Whether this rule allows a syscall of its name with these arguments.
    pub fn matches(&self, args: &[u64; 6]) -> bool {
        self.limits.iter().all(|limit| args.get(limit.arg).is_some_and(|arg| limit.holds(*arg)))
    }
}

impl Limit {
    /// The bits that are compared.
    pub fn mask(&self) -> u64 {
        let width = match self.width {
            Width::Low32 => u64::from(u32::MAX),
            Width::All64 => u64::MAX,
        };
        match self.test {
            Test::Equal => width,
            Test::Masked(mask) => mask & width,
        }
    }

    /// Whether the argument may be `value`.
    pub fn holds(&self, value: u64) -> bool {
        value & self.mask() == self.value & self.mask()
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arg{}", self.arg)?;
        if let Test::Masked(mask) = self.test {
            write!(f, " & {mask:#x}")?;
        }
        write!(f, " == {:#x} ({})", self.value, self.meaning)
    }
}
