//! A control group that this process joins for a while, or another for its life, so that it and the page cache it fills
//! have only so much memory.
//!
//! In: a number of bytes. Out: a [`MemoryCap`] on this process, in force until it is dropped, or a `ChildCap` for
//! another; or why there can be none. Control groups of version 2 only.
//!
//! Memory stays charged to the group in which it was first touched: what the process holds when it joins is not
//! counted, what it takes from then on is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::provenance::cgroup;

/// A limit on this process that cannot be had here.
#[derive(Debug, thiserror::Error)]
pub enum CapRefused {
    /// No control groups of version 2, or none in which this process is.
    #[error(
        "no control group of version 2 is mounted for this process; \
         run it on a system that has them, or measure --io-state cold"
    )]
    NoGroups,
    /// The group above does not hand the memory controller down.
    #[error("{group}: the memory controller is not available to new groups ({source}); \
         run it as `systemd-run --user --scope kiln ...`, or measure --io-state cold", group = group.display())]
    NoController {
        /// The group that new ones would be made in.
        group: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// The system refused to make or to join a group.
    #[error("{path}: cannot {action}: {source}; \
         run it as `systemd-run --user --scope kiln ...`, or measure --io-state cold", path = path.display())]
    Refused {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's own words.
        source: io::Error,
    },
}

/// A limit in force. Dropping it returns the process to the group it came from.
#[derive(Debug)]
pub struct MemoryCap {
    group: PathBuf,
    home: PathBuf,
}

impl MemoryCap {
    /// Moves this process into a new group of at most `bytes` bytes, without swap.
    ///
    /// # Errors
    /// When groups cannot be made here; the process is then where it was.
    pub fn enter(bytes: u64) -> Result<Self, CapRefused> {
        Self::enter_under(Path::new("/"), bytes)
    }

    /// [`enter`](Self::enter) in the system whose files lie under `root`.
    fn enter_under(root: &Path, bytes: u64) -> Result<Self, CapRefused> {
        let own = cgroup::group_folders(root, None);
        let Some(home) = own.first().cloned() else { return Err(CapRefused::NoGroups) };
        // A group that holds processes may not limit groups inside it, so that the new one goes beside ours; at the top
        // of the hierarchy there is no beside, and no such rule.
        let parent = own.get(1).unwrap_or(&home);
        hand_down_memory(parent)?;
        let group = parent.join(format!("kiln-{}", std::process::id()));
        fs::create_dir(&group).map_err(refused(&group, "make a control group"))?;
        let cap = Self { group, home };
        cap.write("memory.max", bytes, "limit its memory")?;
        // Where swap is not accounted there is no such file, and none to forbid.
        if let Err(error) = fs::write(cap.group.join("memory.swap.max"), "0") {
            tracing::info!("{}: swap is not limited: {error}", cap.group.display());
        }
        cap.write("cgroup.procs", std::process::id(), "join the control group")?;
        Ok(cap)
    }

    fn write(&self, file: &str, value: impl ToString, action: &'static str) -> Result<(), CapRefused> {
        let path = self.group.join(file);
        fs::write(&path, value.to_string()).map_err(refused(&path, action))
    }
}

impl Drop for MemoryCap {
    fn drop(&mut self) {
        let home = self.home.join("cgroup.procs");
        let left = fs::write(&home, std::process::id().to_string()).and_then(|()| fs::remove_dir(&self.group));
        if let Err(error) = left {
            tracing::warn!("{}: the control group is left behind: {error}", self.group.display());
        }
    }
}

/// A group for another process.
#[derive(Debug)]
pub(crate) struct ChildCap {
    group: PathBuf,
}

impl ChildCap {
    /// Makes a group of at most `bytes` bytes, without swap, in which no process is yet.
    pub(crate) fn new(bytes: u64) -> Result<Self, CapRefused> {
        Self::under(Path::new("/"), bytes)
    }

    fn under(root: &Path, bytes: u64) -> Result<Self, CapRefused> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let own = cgroup::group_folders(root, None);
        let Some(home) = own.first() else { return Err(CapRefused::NoGroups) };
        let parent = own.get(1).unwrap_or(home);
        hand_down_memory(parent)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let group = parent.join(format!("kiln-peer-{}-{number}", std::process::id()));
        fs::create_dir(&group).map_err(refused(&group, "make a control group"))?;
        let cap = Self { group };
        let limit = cap.group.join("memory.max");
        fs::write(&limit, bytes.to_string()).map_err(refused(&limit, "limit its memory"))?;
        // As for our own: where swap is not accounted there is none to forbid.
        let _ = fs::write(cap.group.join("memory.swap.max"), "0");
        Ok(cap)
    }

    /// Moves a process into the group; what it holds already is not counted.
    pub(crate) fn take(&self, process: u32) -> Result<(), CapRefused> {
        let file = self.group.join("cgroup.procs");
        fs::write(&file, process.to_string()).map_err(refused(&file, "move the process into the control group"))
    }

    /// Whether the kernel has ended a process of the group for want of memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.group.join("memory.events")).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
        kills.is_some_and(|kills| kills > 0)
    }
}

impl Drop for ChildCap {
    fn drop(&mut self) {
        // A process that was killed leaves its group a moment later.
        for _ in 0..50 {
            match fs::remove_dir(&self.group) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => return,
            }
        }
        tracing::warn!("{}: the control group is left behind", self.group.display());
    }
}

/// Has `group` offer the memory controller to the groups in it.
fn hand_down_memory(group: &Path) -> Result<(), CapRefused> {
    let file = group.join("cgroup.subtree_control");
    let lists_memory = |file: &Path| -> Result<bool, CapRefused> {
        let controllers = fs::read_to_string(file).map_err(refused(file, "read"))?;
        Ok(controllers.split_whitespace().any(|controller| controller == "memory"))
    };
    if lists_memory(&file)? {
        return Ok(());
    }
    let missing = |source| CapRefused::NoController { group: group.to_path_buf(), source };
    if !lists_memory(&group.join("cgroup.controllers"))? {
        return Err(missing(io::ErrorKind::NotFound.into()));
    }
    fs::write(&file, "+memory").map_err(missing)
}

fn refused(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> CapRefused {
    let path = path.to_path_buf();
    move |source| CapRefused::Refused { path, action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system whose process is in `group`, of a hierarchy in which `parent` has these controllers and offers some.
    fn system(group: &str, parent: &str, controllers: &str, offered: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temporary folder");
        let write = |path: String, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("created");
            fs::write(path, text).expect("written");
        };
        write("proc/self/cgroup".into(), &format!("0::{group}\n"));
        write("proc/self/mountinfo".into(), "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        write(format!("sys/fs/cgroup{group}/cgroup.procs"), "");
        write(format!("sys/fs/cgroup{parent}/cgroup.controllers"), controllers);
        write(format!("sys/fs/cgroup{parent}/cgroup.subtree_control"), offered);
        root
    }

    #[test]
    fn a_group_is_made_beside_ours_joined_and_left() {
        let root = system("/user.slice/a.scope", "/user.slice", "cpu memory pids\n", "memory pids\n");
        let at = |path: &str| root.path().join("sys/fs/cgroup").join(path);
        let own = format!("user.slice/kiln-{}", std::process::id());
        let cap = MemoryCap::enter_under(root.path(), 1 << 28).expect("allowed");
        let read = |path: String| fs::read_to_string(at(&path)).expect("written");
        assert_eq!(read(format!("{own}/memory.max")), "268435456");
        assert_eq!(read(format!("{own}/memory.swap.max")), "0");
        assert_eq!(read(format!("{own}/cgroup.procs")), std::process::id().to_string());
        drop(cap);
        assert_eq!(read("user.slice/a.scope/cgroup.procs".into()), std::process::id().to_string());
    }

    #[test]
    fn a_group_for_another_process_is_made_and_tells_who_was_killed() {
        let root = system("/user.slice/a.scope", "/user.slice", "cpu memory pids\n", "memory pids\n");
        let cap = ChildCap::under(root.path(), 1 << 28).expect("allowed");
        let read = |file: &str| fs::read_to_string(cap.group.join(file)).expect("written");
        cap.take(77).expect("moved");
        assert_eq!((read("memory.max"), read("memory.swap.max")), ("268435456".into(), "0".into()));
        assert_eq!(read("cgroup.procs"), "77");
        assert!(!cap.out_of_memory());
        fs::write(cap.group.join("memory.events"), "low 0\nmax 9\noom 1\noom_kill 1\n").expect("written");
        assert!(cap.out_of_memory());
        let second = ChildCap::under(root.path(), 1 << 20).expect("another");
        assert_ne!(second.group, cap.group);
    }

    #[test]
    fn at_the_top_the_group_is_made_inside() {
        let root = system("/", "", "memory", "");
        let cap = MemoryCap::enter_under(root.path(), 4096).expect("allowed");
        let top = root.path().join("sys/fs/cgroup");
        assert_eq!(fs::read_to_string(top.join("cgroup.subtree_control")).expect("written"), "+memory");
        assert!(top.join(format!("kiln-{}/memory.max", std::process::id())).is_file());
        drop(cap);
    }

    #[test]
    fn a_refusal_says_what_and_where() {
        let root = tempfile::tempdir().expect("temporary folder");
        let message = MemoryCap::enter_under(root.path(), 4096).expect_err("no groups").to_string();
        assert!(message.contains("version 2") && message.contains("--io-state cold"), "{message}");

        let root = system("/a/b", "/a", "cpu pids", "cpu");
        let message = MemoryCap::enter_under(root.path(), 4096).expect_err("no controller").to_string();
        assert!(message.contains("memory controller") && message.contains("cgroup/a:"), "{message}");

        let root = system("/a/b", "/a", "memory", "memory");
        // A file in the place of the group.
        let path = root.path().join(format!("sys/fs/cgroup/a/kiln-{}", std::process::id()));
        fs::write(&path, "").expect("written");
        let message = MemoryCap::enter_under(root.path(), 4096).expect_err("in the way").to_string();
        assert!(message.contains("cannot make a control group") && message.contains("systemd-run"), "{message}");
    }
}
