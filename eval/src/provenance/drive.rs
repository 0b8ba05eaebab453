//! The filesystem and the drive below a folder.
//!
//! In: a folder, /proc/self/mountinfo and /sys. Out: a [`Volume`], as far as the system tells.

use std::path::{Path, PathBuf};

use super::read;

/// A mounted filesystem: a line of /proc/self/mountinfo (see proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// `major:minor` of the device.
    pub device: String,
    /// The part of the filesystem that is mounted.
    pub root: String,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Its type.
    pub filesystem: String,
    /// The device or whatever stands for it.
    pub source: String,
    /// Options of the filesystem itself.
    pub options: String,
}

/// What holds a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Volume {
    /// Type of the filesystem.
    pub filesystem: Option<String>,
    /// Model of the drive, or its name where it has no model.
    pub drive: Option<String>,
}

/// An absolute path of the system whose files lie under `root`.
pub(super) fn under(root: &Path, absolute: &Path) -> PathBuf {
    root.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

/// All mounts, in the order in which they were made.
pub(super) fn mounts(root: &Path) -> Vec<Mount> {
    let text = read(root, "proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
    Some(Mount {
        device: left.get(2)?.to_string(),
        root: unescape(left.get(3)?),
        point: unescape(left.get(4)?).into(),
        filesystem: right.first()?.to_string(),
        source: unescape(right.get(1)?),
        options: right.get(2).unwrap_or(&"").to_string(),
    })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(text: &str) -> String {
    let plain = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    plain.replace("\\134", "\\")
}

/// The volume that holds `folder`, as told by the files under `root`.
pub(super) fn of_folder(root: &Path, folder: &Path) -> Volume {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    // Of mounts on one point the last covers the others.
    let covering = mounts(root).into_iter().filter(|mount| folder.starts_with(&mount.point));
    match covering.max_by_key(|mount| mount.point.components().count()) {
        Some(mount) => Volume { drive: drive(root, &mount), filesystem: Some(mount.filesystem) },
        None => Volume::default(),
    }
}

fn drive(root: &Path, mount: &Mount) -> Option<String> {
    // Filesystems over several devices (btrfs, overlay) have a number of their own; the source may still be a device.
    let by_number = root.join("sys/dev/block").join(&mount.device);
    let by_name = mount.source.strip_prefix("/dev/").map(|name| root.join("sys/class/block").join(name));
    let device = by_number.canonicalize().ok().or_else(|| by_name?.canonicalize().ok())?;
    // A partition's model is its disk's.
    let model = read(&device, "device/model").or_else(|| read(device.parent()?, "device/model"));
    model.or_else(|| Some(device.file_name()?.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn system(mountinfo: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temporary folder");
        let at = |path: &str| root.path().join(path);
        for folder in [
            "proc/self",
            "sys/dev/block",
            "sys/class/block",
            "sys/devices/nvme0n1/device",
            "sys/devices/nvme0n1/nvme0n1p2",
            "sys/devices/vda",
        ] {
            std::fs::create_dir_all(at(folder)).expect("created");
        }
        std::fs::write(at("proc/self/mountinfo"), mountinfo).expect("written");
        std::fs::write(at("sys/devices/nvme0n1/device/model"), "Samsung SSD 990\n").expect("written");
        symlink("../../devices/nvme0n1/nvme0n1p2", at("sys/dev/block/259:2")).expect("linked");
        symlink("../../devices/vda", at("sys/dev/block/254:0")).expect("linked");
        symlink("../../devices/nvme0n1/nvme0n1p2", at("sys/class/block/nvme0n1p2")).expect("linked");
        root
    }

    fn volume(root: &tempfile::TempDir, folder: &str) -> (Option<String>, Option<String>) {
        let volume = of_folder(root.path(), Path::new(folder));
        (volume.filesystem, volume.drive)
    }

    fn some(filesystem: &str, drive: &str) -> (Option<String>, Option<String>) {
        (Some(filesystem.to_string()), Some(drive.to_string()))
    }

    #[test]
    fn the_innermost_and_latest_mount_decides() {
        let root = system(
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
             40 27 259:2 / /not-here/my\\040data rw shared:1 - xfs /dev/nvme0n1p2 rw\n\
             41 27 0:99 /sub /not-here/pool rw - btrfs /dev/nvme0n1p2 rw\n\
             42 27 0:50 / /not-here/memory rw - ext4 /dev/vda rw\n\
             43 27 0:51 / /not-here/memory rw - tmpfs tmpfs rw\n",
        );
        assert_eq!(volume(&root, "/not-here"), some("ext4", "vda"));
        assert_eq!(volume(&root, "/not-here/my data/runs"), some("xfs", "Samsung SSD 990"));
        assert_eq!(volume(&root, "/not-here/pool/x"), some("btrfs", "Samsung SSD 990"));
        assert_eq!(volume(&root, "/not-here/memory"), (Some("tmpfs".to_string()), None));
        assert_eq!(volume(&root, "/not-here/my data2"), some("ext4", "vda"));
    }

    #[test]
    fn an_unknown_system_tells_nothing() {
        assert_eq!(volume(&system("nonsense\n"), "/"), (None, None));
    }
}
