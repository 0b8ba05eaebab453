//! What a control group lets this process use, of either version.
//!
//! In: /proc/self/cgroup, /proc/self/mountinfo and the hierarchies mounted there. Out: [`Limits`]. A limit of any
//! ancestor binds, so that the least from the process's own group up to the root counts.

use std::path::{Path, PathBuf};

use super::drive::{mounts, under};
use super::read;

/// Memory limits of version 1 mean "none" from here on: the kernel writes the largest page-aligned i64.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// Limits of the control group; `None` where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Limits {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// CPUs; a fraction where the quota is one.
    pub cpus: Option<f64>,
}

/// The limits on this process, as told by the files under `root`.
pub(super) fn limits(root: &Path) -> Limits {
    let unified = group_folders(root, None);
    let memory = unified.iter().filter_map(|dir| number(dir, "memory.max"));
    let cpus = unified.iter().filter_map(|dir| quota(&read(dir, "cpu.max")?));

    let old_memory = group_folders(root, Some("memory"));
    let old_memory = old_memory.iter().filter_map(|dir| number(dir, "memory.limit_in_bytes"));
    let old_cpus = group_folders(root, Some("cpu"));
    let old_cpus = old_cpus
        .iter()
        .filter_map(|dir| quota(&format!("{} {}", read(dir, "cpu.cfs_quota_us")?, read(dir, "cpu.cfs_period_us")?)));
    Limits {
        memory_bytes: memory.chain(old_memory).filter(|&bytes| bytes < NO_LIMIT_BYTES).min(),
        cpus: cpus.chain(old_cpus).min_by(f64::total_cmp),
    }
}

/// The folders of this process's group and of its ancestors, from the inside out, in the hierarchy of a version 1
/// controller, or in the unified one of version 2.
pub(crate) fn group_folders(root: &Path, controller: Option<&str>) -> Vec<PathBuf> {
    let folders = || {
        let groups = read(root, "proc/self/cgroup")?;
        let group = groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let ours = match controller {
                Some(controller) => controllers.split(',').any(|name| name == controller),
                None => controllers.is_empty(),
            };
            ours.then_some(path)
        })?;
        let mount = mounts(root).into_iter().find(|mount| match controller {
            Some(controller) => mount.filesystem == "cgroup" && mount.options.split(',').any(|o| o == controller),
            None => mount.filesystem == "cgroup2",
        })?;
        // In a container the mount shows only part of the hierarchy, whose path the group's begins with.
        let group = Path::new(group);
        let shown = group.strip_prefix(&mount.root).or_else(|_| group.strip_prefix("/")).ok()?;
        let top = under(root, &mount.point);
        // Joined with nothing, a path would end in a slash.
        let own = if shown.as_os_str().is_empty() { top.clone() } else { top.join(shown) };
        Some(own.ancestors().take_while(|dir| dir.starts_with(&top)).map(Path::to_path_buf).collect())
    };
    folders().unwrap_or_default()
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    read(dir, file)?.parse().ok()
}

/// CPUs of `quota period` in microseconds; `max` and -1 mean that there is no limit.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temporary folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("created");
            std::fs::write(path, text).expect("written");
        }
        root
    }

    #[test]
    fn version_2_takes_the_least_of_all_ancestors() {
        let root = system(&[
            ("proc/self/cgroup", "0::/user/session\n"),
            ("proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/user/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/user/session/memory.max", "max\n"),
            ("sys/fs/cgroup/user/session/cpu.max", "250000 100000\n"),
            ("sys/fs/cgroup/user/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(limits(root.path()), Limits { memory_bytes: Some(1 << 30), cpus: Some(2.5) });
    }

    #[test]
    fn version_1_in_a_container_is_found_below_the_mounts_root() {
        let root = system(&[
            ("proc/self/cgroup", "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n"),
            (
                "proc/self/mountinfo",
                "31 30 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                 32 30 0:28 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(limits(root.path()), Limits { memory_bytes: Some(512 << 20), cpus: Some(1.5) });
    }

    #[test]
    fn no_limit_is_none() {
        let root = system(&[
            ("proc/self/cgroup", "4:memory:/\n3:cpu:/\n"),
            (
                "proc/self/mountinfo",
                "31 30 0:27 / /cg/memory rw - cgroup cgroup rw,memory\n32 30 0:28 / /cg/cpu rw - cgroup cgroup rw,cpu\n",
            ),
            ("cg/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cg/cpu/cpu.cfs_quota_us", "-1\n"),
            ("cg/cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(limits(root.path()), Limits::default());
        assert_eq!(limits(system(&[]).path()), Limits::default());
    }
}
