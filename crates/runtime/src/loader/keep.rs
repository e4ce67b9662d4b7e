//! Where live updates leave what they brought, so that the next load finds it: the program's file.
//!
//! Guards: a file is replaced at once or not at all; what the configuration would refuse to load
//! is not put there.

use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::copy::{beside, remove};
use super::file;
use crate::config::ProgramConfig;
use crate::exchange::Severity;
use crate::journal;
use crate::source::Binaries;
use crate::update::Stored;

/// Keeps the binaries of a live update as the configuration says: in `filename` if that is an
/// absolute path, the storage's own executable beside it.
pub(crate) fn keep(config: &ProgramConfig, binaries: &Binaries) -> Stored {
    let Some(path) = config.filename.as_deref().filter(|path| is_a_place(path)) else {
        return Stored::No;
    };
    if let Some(hash) = &config.sha256
        && Sha256::digest(&binaries.request)[..] != hash[..]
    {
        let line = "live update: not kept, its sha256 is not the configuration's";
        journal::say(Severity::Info, &config.name, line.as_bytes());
        return Stored::No;
    }
    let storage = beside(path, "_storage");
    let replace = |path: &Path, bytes: &[u8]| {
        if fs::read(path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        file::replace(path, bytes, None).map_err(|error| (path.to_owned(), error))
    };
    let both = || match &binaries.storage {
        _ if !config.settings.storage => replace(path, &binaries.request),
        Some(own) => {
            replace(&storage, own)?;
            replace(path, &binaries.request)
        }
        None => {
            replace(path, &binaries.request)?;
            // One executable for both roles: the storage's own from before is of yesterday.
            remove(&storage).map_err(|error| (storage.clone(), error))
        }
    };
    match both() {
        Ok(()) => Stored::Yes(path.to_owned()),
        Err((path, error)) => Stored::Failed {
            path,
            reason: error.to_string(),
        },
    }
}

/// Upstream's rule: neither a relative path nor what looks like an address.
fn is_a_place(path: &Path) -> bool {
    path.is_absolute() && !path.to_string_lossy().contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::PathBuf;

    /// An empty folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tinykvm-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn config(filename: &Path) -> ProgramConfig {
        ProgramConfig {
            name: "p".into(),
            filename: Some(filename.to_owned()),
            ..ProgramConfig::default()
        }
    }

    fn pair(request: &[u8], storage: Option<&[u8]>) -> Binaries {
        Binaries {
            request: request.to_vec(),
            storage: storage.map(<[u8]>::to_vec),
        }
    }

    #[test]
    fn a_kept_program_replaces_the_file_and_keeps_its_mode_and_links() {
        let folder = Folder::new("keep-mode");
        let (file, link) = (folder.0.join("release"), folder.0.join("program"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o750)).unwrap();
        symlink(&file, &link).unwrap();
        let open = fs::File::open(&file).unwrap();
        let stored = keep(&config(&link), &pair(b"new", None));
        assert!(
            matches!(&stored, Stored::Yes(path) if *path == link),
            "{stored:?}"
        );
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(link.is_symlink());
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750);
        assert_eq!(
            std::io::read_to_string(open).unwrap(),
            "old",
            "written in place"
        );
        assert_eq!(
            fs::read_dir(&folder.0).unwrap().count(),
            2,
            "a part is left"
        );
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named_with_the_reason() {
        let path = Path::new("/proc/version/program");
        let stored = keep(&config(path), &pair(b"new", None));
        let Stored::Failed {
            path: named,
            reason,
        } = &stored
        else {
            panic!("{stored:?}");
        };
        assert_eq!(named, path);
        assert!(!reason.is_empty());
    }

    #[test]
    fn relative_names_addresses_and_nothing_are_no_places() {
        for name in ["program", "/x/http://example.com/program"] {
            let stored = keep(&config(Path::new(name)), &pair(b"new", None));
            assert!(matches!(stored, Stored::No), "{name}: {stored:?}");
        }
        let stored = keep(&ProgramConfig::default(), &pair(b"new", None));
        assert!(matches!(stored, Stored::No), "{stored:?}");
    }

    #[test]
    fn what_the_hash_of_the_configuration_excludes_is_not_kept() {
        let folder = Folder::new("keep-hash");
        let path = folder.0.join("program");
        let mut config = config(&path);
        config.sha256 = Some(Sha256::digest(b"new").into());
        assert!(matches!(keep(&config, &pair(b"other", None)), Stored::No));
        assert!(!path.exists());
        assert!(matches!(keep(&config, &pair(b"new", None)), Stored::Yes(_)));
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn the_executable_of_the_storage_is_kept_beside_and_never_left_behind() {
        let folder = Folder::new("keep-storage");
        let (path, beside) = (folder.0.join("program"), folder.0.join("program_storage"));
        let mut config = config(&path);
        keep(&config, &pair(b"1", Some(b"s1")));
        assert!(!beside.exists(), "kept for a program without storage");
        config.settings.storage = true;
        keep(&config, &pair(b"2", Some(b"s2")));
        assert_eq!(fs::read(&beside).unwrap(), b"s2");
        keep(&config, &pair(b"3", None));
        assert_eq!(fs::read(&path).unwrap(), b"3");
        assert!(!beside.exists());
    }
}
