//! The file that may take over: the one at the path from which this program was started.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::unistd::geteuid;
use pen_ipc::text::error_text;
use pen_walk::Entry;
use rustix::fs::{FileType, OFlags, Stat, fstat};
use serde::{Deserialize, Serialize};

use crate::files::made::{FileId, file_id};

/// The file from which the running program was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProgramFile {
    /// Its path, without links.
    #[serde(with = "pen_config::paths")]
    path: PathBuf,
    /// Device and inode number of its directory: only what is in there can be executed.
    directory: FileId,
}

impl ProgramFile {
    /// The file of the running program (proc_pid_exe(5)); none without /proc. Find it at the start:
    /// the kernel changes the path when the file is removed.
    pub(crate) fn find() -> Option<ProgramFile> {
        let path = std::fs::read_link("/proc/self/exe").ok().filter(|path| path.is_absolute())?;
        let directory = fstat(Entry::find(&path).ok()?.directory()).ok()?;
        Some(ProgramFile { path, directory: file_id(&directory) })
    }
}

/// Opens the file, for execution only (O_PATH).
///
/// # Errors
/// One line: it is missing, is no program, or another user could have put it there.
pub(crate) fn open(program: &ProgramFile) -> Result<OwnedFd, String> {
    let path = program.path.as_path();
    let at = |why: &str| format!("{}: {why}", path.display());
    let entry = Entry::find(path).map_err(|error| at(&error_text(&error)))?;
    let directory = fstat(entry.directory()).map_err(|errno| at(&error_text(&errno.into())))?;
    if file_id(&directory) != program.directory {
        return Err(at("its directory is another one than at the start; pen needs a restart"));
    }
    let user = geteuid().as_raw();
    if !entry.is_fixed() || is_open_to_others(&directory, user) {
        let directory = path.parent().unwrap_or(path).display();
        return Err(at(&format!("other users may put files into {directory} (chmod go-w)")));
    }
    let opened =
        entry.open(OFlags::PATH | OFlags::NOFOLLOW, 0).map_err(|error| at(&error_text(&error)))?;
    let file = fstat(&opened).map_err(|errno| at(&error_text(&errno.into())))?;
    match fault(&file, user) {
        Some(why) => Err(at(&why)),
        None => Ok(opened.into()),
    }
}

/// Whether other users can put a file into a directory in place of one that is there.
fn is_open_to_others(directory: &Stat, user: u32) -> bool {
    let is_foreign = directory.st_uid != 0 && directory.st_uid != user;
    let is_writable = directory.st_mode & WRITABLE_BY_OTHERS != 0;
    // With the sticky bit, only the owner of a file can replace it.
    is_foreign || (is_writable && directory.st_mode & STICKY == 0)
}

/// Why a file must not take over.
fn fault(file: &Stat, user: u32) -> Option<String> {
    match FileType::from_raw_mode(file.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink => {
            return Some(
                "a symbolic link is there now; pen executes only a file in the directory of its \
                 start"
                    .into(),
            );
        }
        FileType::Directory
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => return Some("it is no file".into()),
    }
    if file.st_uid != 0 && file.st_uid != user {
        return Some(format!(
            "it belongs to user {}, and must belong to root or to the user that started pen",
            file.st_uid
        ));
    }
    if file.st_mode & WRITABLE_BY_OTHERS != 0 {
        return Some("others than its owner may write it (chmod go-w)".into());
    }
    if file.st_mode & EXECUTABLE == 0 {
        return Some("it is not executable (chmod +x)".into());
    }
    None
}

const WRITABLE_BY_OTHERS: u32 = 0o022;

const EXECUTABLE: u32 = 0o111;

const STICKY: u32 = 0o1000;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use std::path::Path;

    use super::*;

    fn program(path: &Path) -> ProgramFile {
        let directory = rustix::fs::stat(path.parent().unwrap()).unwrap();
        ProgramFile { path: path.into(), directory: file_id(&directory) }
    }

    fn reason(path: &Path) -> String {
        open(&program(path))
            .unwrap_err()
            .strip_prefix(&format!("{}: ", path.display()))
            .unwrap()
            .to_owned()
    }

    #[test]
    fn only_a_program_that_no_other_user_can_have_put_there_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pen");
        assert_eq!(reason(&path), "no such file or directory");
        std::fs::write(&path, "x").unwrap();
        let set = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(0o644);
        assert!(reason(&path).starts_with("it is not executable"));
        set(0o775);
        assert!(reason(&path).starts_with("others than its owner may write it"));
        set(0o755);
        open(&program(&path)).unwrap();
        let moved = ProgramFile { directory: (0, 0), ..program(&path) };
        assert!(open(&moved).unwrap_err().ends_with("pen needs a restart"));
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(reason(&link).starts_with("a symbolic link is there now"));
        assert_eq!(reason(directory.path()), "it is no file");
    }

    #[test]
    fn a_file_of_a_third_user_is_refused() {
        let path = std::env::current_exe().unwrap();
        let mut file = rustix::fs::stat(&path).unwrap();
        file.st_mode = 0o100_755;
        file.st_uid = 7;
        assert_eq!(fault(&file, 7), None);
        assert!(fault(&file, 8).unwrap().starts_with("it belongs to user 7"));
        file.st_uid = 0;
        assert_eq!(fault(&file, 8), None);
    }
}
