//! Pages that stay in memory because searches often want them.
//!
//! In: a budget in bytes, and how often a sample of searches wanted each group of pages. Out: the groups wanted most,
//! read once and checked. Which they are depends on the index and the budget alone.

use std::collections::HashMap;

use super::nodes::DriveNodes;
use crate::error::BuilderError;
use crate::file::PAGE;
use crate::io::Queue;

/// Groups of pages in memory.
#[derive(Default)]
pub(super) struct Pinned {
    /// Groups, ascending.
    groups: Vec<u32>,
    /// Whether a group may be among them: a bit a group, to say no quickly.
    some: Vec<u64>,
    bytes: Vec<u32>,
    group_bytes: usize,
}

impl Pinned {
    /// What a pinned group costs in memory.
    pub(super) fn cost(nodes: &DriveNodes) -> u64 {
        (nodes.layout.pages_per_node() * PAGE + size_of::<u32>()) as u64
    }

    /// What it costs to pin anything at all.
    pub(super) fn overhead(nodes: &DriveNodes) -> u64 {
        8 * u64::from(nodes.groups()).div_ceil(64)
    }

    /// Reads at most `at_most` groups of those that were `wanted`, most often first, then lowest.
    pub(super) fn read(
        nodes: &DriveNodes,
        queue: &mut Queue,
        wanted: &HashMap<u32, u32>,
        at_most: usize,
    ) -> Result<Self, BuilderError> {
        let mut by_count: Vec<(u32, u32)> = wanted.iter().map(|(&group, &count)| (count, group)).collect();
        by_count.sort_unstable_by_key(|&(count, group)| (std::cmp::Reverse(count), group));
        by_count.truncate(at_most);
        let mut groups: Vec<u32> = by_count.into_iter().map(|(_, group)| group).collect();
        groups.sort_unstable();
        let group_bytes = nodes.layout.pages_per_node() * PAGE;
        let mut pinned = Self { some: vec![0; (nodes.groups() as usize).div_ceil(64)], group_bytes, ..Self::default() };
        pinned.bytes.reserve_exact(groups.len() * group_bytes / 4);
        let mut in_flight = std::collections::VecDeque::new();
        let mut rest = groups.iter().peekable();
        let outcome = loop {
            while let Some(ticket) = rest.peek().and_then(|&&group| queue.request(nodes.span(group))) {
                in_flight.push_back(ticket);
                rest.next();
            }
            let Some(ticket) = in_flight.pop_front() else { break Ok(()) };
            let taken = queue.wait_for(ticket).and_then(|_| {
                pinned.bytes.extend_from_slice(bytemuck::cast_slice(queue.bytes(ticket)?));
                Ok(())
            });
            queue.release(ticket);
            if taken.is_err() {
                break taken;
            }
        };
        in_flight.into_iter().for_each(|ticket| queue.release(ticket));
        outcome?;
        for &group in &groups {
            pinned.some[group as usize / 64] |= 1 << (group % 64);
        }
        pinned.groups = groups;
        Ok(pinned)
    }

    #[inline]
    pub(super) fn holds(&self, group: u32) -> bool {
        self.some.get(group as usize / 64).is_some_and(|bits| bits >> (group % 64) & 1 == 1)
    }

    /// The pages of a group that it [`holds`](Self::holds).
    pub(super) fn bytes(&self, group: u32) -> &[u8] {
        let at = self.groups.partition_point(|&other| other < group);
        &bytemuck::cast_slice::<u32, u8>(&self.bytes)[at * self.group_bytes..][..self.group_bytes]
    }

    /// Bytes held.
    pub(super) fn resident_bytes(&self) -> u64 {
        (8 * self.some.len() + 4 * self.groups.len() + 4 * self.bytes.len()) as u64
    }
}
