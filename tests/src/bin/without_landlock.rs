//! `without_landlock COMMAND...`: becomes the command, on a kernel that seems to have no landlock.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use sv3_tests::failure::{Failure, Result};

fn main() -> Result<()> {
    let rules = BTreeMap::from([(libc::SYS_landlock_create_ruleset, Vec::new())]);
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32));
    let filter = SeccompFilter::new(rules, others, these, TargetArch::x86_64)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    let mut words = std::env::args_os().skip(1);
    let program = words.next().ok_or_else(|| Failure::new("usage: without_landlock COMMAND..."))?;
    Err(Command::new(program).args(words).exec().into())
}
