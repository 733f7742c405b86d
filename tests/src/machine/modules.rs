//! Modules of the kernel, in the order in which they can be loaded.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// The files of these modules and of all that they depend on, each behind those that it needs. What the kernel has built
/// in has no file and needs none.
pub fn in_order(folder: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = HashMap::new();
    collect(folder, &mut files)?;
    let mut ordered = Vec::new();
    for name in names {
        let file = files.get(&canonical(name)).ok_or_else(|| Failure::new(format!("no module {name}")))?;
        place(file, &files, &mut ordered)?;
    }
    Ok(ordered)
}

/// Files by the names of their modules.
fn collect(folder: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            files.insert(canonical(&name), path);
        }
    }
    Ok(())
}

/// File names have dashes where modules have underscores, or the other way.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn place(file: &Path, files: &HashMap<String, PathBuf>, ordered: &mut Vec<PathBuf>) -> Result<()> {
    if ordered.iter().any(|placed| placed == file) {
        return Ok(());
    }
    for name in dependencies(&fs::read(file)?) {
        if let Some(needed) = files.get(&canonical(&name)) {
            place(needed, files, ordered)?;
        }
    }
    ordered.push(file.to_owned());
    Ok(())
}

/// What a module's own text says: `depends=NAME,NAME` up to an octet of zero.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|octets| octets == KEY) else { return Vec::new() };
    let names = module.get(at + KEY.len()..).unwrap_or_default().split(|octet| *octet == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(names);
    names.split(',').filter(|name| !name.is_empty()).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_behind_those_that_it_needs() -> Result<()> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("net"))?;
        let file = |name: &str| folder.path().join(name);
        fs::write(file("net/card-one.ko"), b"ELF\0license=GPL\0depends=bus_core,mdio\0name=card_one\0")?;
        fs::write(file("bus-core.ko"), b"ELF\0depends=\0name=bus_core\0")?;
        fs::write(file("net/other.ko"), b"ELF\0depends=bus-core\0")?;

        let ordered = in_order(folder.path(), &["card_one", "other"])?;

        assert_eq!(ordered, ["bus-core.ko", "net/card-one.ko", "net/other.ko"].map(file));
        assert!(in_order(folder.path(), &["mdio"]).is_err());
        Ok(())
    }
}
