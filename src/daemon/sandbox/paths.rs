//! What stays accessible, by the configuration.

use std::path::{Path, PathBuf};

use landlock::{AccessFs, BitFlags, make_bitflags};

use super::AllowedPath;
use crate::daemon::config::{Arguments, Config, DEFAULT_FILE};

/// The paths that cpd needs once everything is open. `control` is the control socket if cpd created it.
pub fn allowed_paths(arguments: &Arguments, config: &Config, control: Option<&Path>) -> Vec<AllowedPath> {
    let store = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | MakeReg | RemoveFile | Truncate});
    let mut allowed_paths: Vec<AllowedPath> =
        folders_of(&config.store_path).map(|path| AllowedPath { path, access: store }).collect();
    // A reload reads the configuration again. If there is no file yet, one may be created before that.
    let named = arguments.config.as_deref().or(config.file.as_deref());
    let file = named.or(config.data.is_none().then_some(Path::new(DEFAULT_FILE)));
    let read = BitFlags::from_flag(AccessFs::ReadFile);
    allowed_paths.extend(file.into_iter().flat_map(folders_of).map(|path| AllowedPath { path, access: read }));
    // A reload creates the socket again if its file is gone, and the file is removed at the end.
    let made = make_bitflags!(AccessFs::{MakeSock | RemoveFile});
    allowed_paths.extend(control.into_iter().flat_map(folders_of).map(|path| AllowedPath { path, access: made }));
    // Opened for the descriptor that is kept in reserve.
    allowed_paths.push(AllowedPath { path: PathBuf::from("/dev/null"), access: read });
    allowed_paths
}

/// The directory of `file`, and that of the file behind it if `file` is a symbolic link.
fn folders_of(file: &Path) -> impl Iterator<Item = PathBuf> {
    let folder = |file: &Path| match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    let real = file.canonicalize().ok().map(|real| folder(&real));
    std::iter::once(folder(file)).chain(real)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_link_leads_to_the_folder_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir(dir.join("real")).unwrap();
        fs::write(dir.join("real/cpd.toml"), "").unwrap();
        std::os::unix::fs::symlink("real/cpd.toml", dir.join("cpd.toml")).unwrap();
        let found: Vec<PathBuf> = folders_of(&dir.join("cpd.toml")).collect();
        assert_eq!(found, [dir.clone(), dir.join("real")]);
        assert_eq!(folders_of(Path::new("no-such-file")).collect::<Vec<_>>(), [PathBuf::from(".")]);
    }
}
