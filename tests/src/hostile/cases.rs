//! All cases.

mod chains;
mod files;
mod load;
mod memory;
mod messages;
mod rings;
mod settings;

use crate::hostile::case::Case;

/// Every case, the mild ones first.
pub fn all() -> Vec<Case> {
    [
        messages::CASES,
        files::CASES,
        settings::CASES,
        memory::CASES,
        chains::CASES,
        rings::CASES,
        load::CASES,
        memory::DEADLY_CASES,
    ]
    .concat()
}
