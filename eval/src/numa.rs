//! Which CPUs are near which memory, and in which order searches take them.
//!
//! In: `/sys/devices/system/node` and the CPUs that this process may use. Out: the CPUs in the order in which threads of a
//! mode are pinned, one node after another; and for the while that an index is read, memory on the node of the first of
//! them. On a machine of one node nothing changes. No library is needed: what the kernel tells and takes is text and one
//! system call.

use std::path::Path;

use crate::sys;

/// CPUs of each memory node, by the node's number; empty where the system does not tell.
fn nodes(root: &Path) -> Vec<(usize, Vec<usize>)> {
    let read = |path: String| std::fs::read_to_string(root.join(path)).ok();
    let Some(online) = read("sys/devices/system/node/online".into()) else { return Vec::new() };
    (number_list(&online).into_iter())
        .filter_map(|node| Some((node, number_list(&read(format!("sys/devices/system/node/node{node}/cpulist"))?))))
        .filter(|(_, cpus)| !cpus.is_empty())
        .collect()
}

/// `0-3,8,10-11` as numbers; what cannot be read is left out.
fn number_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.trim().parse().ok()?..=to.trim().parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// The CPUs in the order in which threads take them: those of one node together, the node with most of them first, and in
/// a node from the last down, since the first CPU serves most interrupts.
fn ordered(allowed: &[usize], nodes: &[(usize, Vec<usize>)]) -> Vec<usize> {
    let mut groups: Vec<Vec<usize>> = (nodes.iter())
        .map(|(_, cpus)| allowed.iter().rev().copied().filter(|cpu| cpus.contains(cpu)).collect())
        .collect();
    groups
        .push(allowed.iter().rev().copied().filter(|cpu| !nodes.iter().any(|(_, cpus)| cpus.contains(cpu))).collect());
    groups.sort_by_key(|group| (std::cmp::Reverse(group.len()), std::cmp::Reverse(group.first().copied())));
    groups.concat()
}

/// The CPUs of this process in the order in which threads take them.
pub(crate) fn search_order() -> Vec<usize> {
    ordered(&sys::allowed_cpus(), &nodes(Path::new("/")))
}

/// The node of the CPU that searches first; `None` on a machine of one node.
pub(crate) fn searching_node() -> Option<usize> {
    let nodes = nodes(Path::new("/"));
    let &first = ordered(&sys::allowed_cpus(), &nodes).first()?;
    let near = nodes.iter().find(|(_, cpus)| cpus.contains(&first)).map(|&(node, _)| node);
    near.filter(|_| nodes.len() > 1)
}

/// Memory that the calling thread touches first comes from the node of the CPU that searches first, until this is dropped.
#[must_use]
pub(crate) struct Near(bool);

/// Begins that. Nothing happens on a machine of one node, and where the system refuses.
pub(crate) fn prefer_searching_node() -> Near {
    let Some(node) = searching_node() else { return Near(false) };
    match sys::prefer_memory_of(Some(node)) {
        Ok(()) => {
            tracing::info!("memory comes from node {node} while the index is read: its CPUs search first");
            Near(true)
        }
        Err(error) => {
            tracing::warn!("memory cannot be bound to node {node} ({error}): rates may vary with where it lies");
            Near(false)
        }
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        if self.0 {
            // That it could be set says that it can be reset; if not, memory still comes from somewhere.
            let _ = sys::prefer_memory_of(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(number_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!((number_list("7"), number_list("\n"), number_list("x-3,5")), (vec![7], vec![], vec![5]));
    }

    #[test]
    fn nodes_are_those_of_the_system() {
        let root = tempfile::tempdir().expect("temporary folder");
        assert_eq!(nodes(root.path()), []);
        let write = |path: &str, text: &str| {
            let path = root.path().join("sys/devices/system/node").join(path);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("created");
            std::fs::write(path, text).expect("written");
        };
        write("online", "0-2\n");
        write("node0/cpulist", "0-1,4-5\n");
        write("node1/cpulist", "2-3,6-7\n");
        write("node2/cpulist", "\n");
        assert_eq!(nodes(root.path()), [(0, vec![0, 1, 4, 5]), (1, vec![2, 3, 6, 7])]);
    }

    #[test]
    fn threads_fill_one_node_before_the_next() {
        let nodes = [(0, vec![0, 1, 4, 5]), (1, vec![2, 3, 6, 7])];
        assert_eq!(ordered(&[0, 1, 2, 3, 4, 5, 6, 7], &nodes), [7, 6, 3, 2, 5, 4, 1, 0]);
        assert_eq!(ordered(&[0, 1, 2, 4], &nodes), [4, 1, 0, 2], "the node with more of them");
        assert_eq!(ordered(&[0, 1, 2], &[]), [2, 1, 0]);
        assert_eq!(ordered(&[0, 1, 2], &[(0, vec![0, 1, 2])]), [2, 1, 0]);
        assert_eq!(ordered(&[], &nodes), [0usize; 0]);
    }
}
