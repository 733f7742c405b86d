//! All cases.

mod chains;
mod files;
mod load;
mod memory;
mod messages;
mod rings;
mod settings;

use crate::case::Case;

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn each_case_has_a_name_of_its_own_and_an_origin() {
        let cases = super::all();
        let names: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), cases.len());
        for case in cases {
            assert!(case.name.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit()));
            assert!(case.origin.starts_with("CVE-") || ["sv3 2013", "own"].contains(&case.origin), "{}", case.name);
        }
    }
}
