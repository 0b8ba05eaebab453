//! The sections of the index, from the units of the pass.

use std::ops::Range;

use kiln_kernels::codec::{Codec, ListRows};
use kiln_kernels::nodes::VectorRecord;
use kiln_kernels::{Backend, dispatch_rows};
use ndarray::Array2;
use rayon::prelude::*;

use super::lists::{Column, Spilled, Window, windows};
use super::pass::{self, code_bytes, rows_of};
use super::train::Trained;
use super::{Build, Keys, plan};
use crate::durable::Written;
use crate::error::BuilderError;
use crate::file::Section;
use crate::file::writer::{IndexWriter, SectionSink};
use crate::ivf::build::{residuals, write_record};
use crate::ivf::layout::{ListEntry, encode_codec, encode_directory, lay_out};
use crate::ivf::nav::{NAVIGATED_LISTS, Navigation};
use crate::resources::{Stopwatch, return_freed_memory};

/// Everything that lists are written from.
struct Lists<'a, 'b, B> {
    build: &'a Build<'b, B>,
    trained: &'a Trained,
    spilled: &'a Spilled<'a>,
    written: Written<'a>,
    entries: Vec<ListEntry>,
    /// Codes by first list, and by second.
    codes: [Column<'a>; 2],
}

/// Writes all sections but meta, from where an earlier process ended.
pub(super) fn write<B: Backend>(
    build: &Build<'_, B>,
    keys: &Keys,
    trained: &Trained,
    spilled: &Spilled<'_>,
    writer: &mut IndexWriter,
    watch: &mut Stopwatch<'_>,
) -> Result<(), BuilderError> {
    watch.stage("write", build.n());
    if spilled.zeros > 0 {
        tracing::warn!("{} rows are zero: under cosine they are at distance 1 from everything", spilled.zeros);
    }
    if build.plan.frees {
        let folder = build.store.folder().display();
        tracing::warn!(
            "{folder}: the drive does not hold working files and index at a time: working files are freed while the index \
             is written, and an end before it is finished would repeat the pass over the rows"
        );
        build.store.disown(pass::STAGE)?;
    }
    let (index_bytes, kept) = (build.shape().index_bytes(), !build.plan.frees);
    let written = Written { store: build.store, key: &keys.written, index_bytes, kept };
    written.go_on(writer)?;
    let (centroids, codec) = (trained.tree.centroids(), &trained.codec);
    writer.section(Section::Codec, |sink| sink.write(&encode_codec(codec, centroids)))?;
    if centroids.nrows() >= NAVIGATED_LISTS && !writer.has(Section::Nav) {
        let graph = Navigation::build(centroids, build.metric, build.params.seed);
        writer.section(Section::Nav, |sink| sink.write(&graph.to_bytes()))?;
    }
    return_freed_memory();

    let row_bytes = build.source.dim() * build.dtype().bytes();
    let vectors = Column { table: &spilled.own, segment: pass::VECTORS, width: row_bytes };
    let codes =
        match codec.codes_residuals() {
            true => [vectors, Column { table: &spilled.second, segment: pass::SPILLED_CODES, ..vectors }],
            false => [(&spilled.own, pass::CODES), (&spilled.second, pass::SPILLED_CODES)]
                .map(|(table, segment)| Column { table, segment, width: code_bytes(codec) }),
        };
    let nlist = centroids.nrows();
    let second: Vec<u64> = (0..nlist).map(|list| spilled.second.total(list)).collect();
    let entries = lay_out(&spilled.own.totals, &second, codec);
    let lists = Lists { build, trained, spilled, written, entries, codes };
    writer.section(Section::Lists, |sink| lists.write(sink))?;
    let record = VectorRecord { dtype: build.dtype(), dim: build.source.dim(), metric: build.metric };
    writer.section(Section::Vectors, |sink| lists.write_vectors(vectors, record, sink))?;
    writer.section(Section::Ids, |sink| lists.write_numbers(sink))
}

impl<B: Backend> Lists<'_, '_, B> {
    /// Frees what was read for the last time, where there is no room for it and the index.
    fn done_with(&self, columns: &[Column<'_>], window: &Window) -> Result<(), BuilderError> {
        match self.build.plan.frees {
            true => columns.iter().try_for_each(|&column| self.spilled.spend(column, window)),
            false => Ok(()),
        }
    }

    /// After a window: where it was marked the build may be stopped. Where what was read is gone nothing is marked.
    fn mark(&self, sink: &mut SectionSink<'_>, steps: u64) -> Result<(), BuilderError> {
        if self.written.mark(sink, steps)? {
            self.build.work().may_stop()?;
        }
        Ok(())
    }

    /// The directory and the lists.
    fn write(&self, sink: &mut SectionSink<'_>) -> Result<(), BuilderError> {
        if sink.steps() == 0 {
            sink.write(&encode_directory(&self.entries))?;
        }
        let most = self.build.plan.window_rows;
        let rows: Vec<u64> = self.entries.iter().map(ListEntry::rows).collect();
        for (window, steps) in windows(&rows, most).into_iter().zip(1..).skip(sink.steps() as usize) {
            match window.is_whole() {
                true => self.write_whole(&window, sink)?,
                // The first part stands for all of its list.
                false if window.rows.start == 0 => self.write_long(window.lists.start, sink)?,
                false => (),
            }
            self.mark(sink, steps)?;
        }
        Ok(())
    }

    /// The lists of a window, as far as memory holds all of them.
    fn write_whole(&self, window: &Window, sink: &mut SectionSink<'_>) -> Result<(), BuilderError> {
        let [own, second] = self.codes;
        let read = |column: Column<'_>| self.spilled.read(column, window, column.width, |_, bytes| bytes);
        let (of_own, of_second, positions) = (read(own)?, read(second)?, self.positions(window)?);
        // Where each list's rows begin in each.
        let begins = |column: Column<'_>| {
            let counts = column.table.counts_in(window);
            let begin = |at: &mut usize, count: usize| Some(std::mem::replace(at, *at + count));
            counts.into_iter().scan(0, begin).collect::<Vec<usize>>()
        };
        let (own_begins, second_begins) = (begins(own), begins(second));
        let encode = |i: usize| {
            let entry = &self.entries[window.lists.start + i];
            let part = |bytes: &[u8], first: usize, rows: u64, width: usize| {
                bytes[first * width..(first + rows as usize) * width].to_vec()
            };
            let mut codes = part(&of_own, own_begins[i], entry.count, own.width);
            codes.extend(part(&of_second, second_begins[i], entry.spilled, second.width));
            let mut bytes = self.encode(window.lists.start + i, &codes);
            bytes.extend(part(&positions, second_begins[i], entry.spilled, 4));
            debug_assert_eq!(bytes.len() as u64, entry.bytes(&self.trained.codec));
            bytes
        };
        // A few lists at a time, as many as keep all threads at work.
        let some = 4 * rayon::current_num_threads();
        for first in (0..window.lists.len()).step_by(some) {
            let some = first..window.lists.len().min(first + some);
            for bytes in some.into_par_iter().map(encode).collect::<Vec<_>>() {
                sink.pad_to_page()?;
                sink.write(&bytes)?;
            }
        }
        self.spend_codes(window)
    }

    /// A list that memory does not hold: part after part, each of whole blocks.
    fn write_long(&self, list: usize, sink: &mut SectionSink<'_>) -> Result<(), BuilderError> {
        let entry = self.entries[list];
        let most = self.build.plan.window_rows;
        let parts = || (0..entry.rows()).step_by(most as usize).map(|start| start..entry.rows().min(start + most));
        let codec = &self.trained.codec;
        sink.pad_to_page()?;
        for rows in parts() {
            let codes = self.codes_of(list, rows.clone())?;
            let bytes = self.encode(list, &codes);
            // Of what is not in blocks the biases of all rows go first.
            let biases = 4 * (rows.end - rows.start) as usize;
            sink.write(if codec.is_in_blocks() { &bytes } else { &bytes[..biases] })?;
        }
        if !codec.is_in_blocks() {
            parts().try_for_each(|rows| sink.write(&self.codes_of(list, rows)?))?;
        }
        for start in (0..entry.spilled).step_by(most as usize) {
            let rows = start..entry.spilled.min(start + most);
            sink.write(&self.positions(&Window::part(list, rows))?)?;
        }
        self.spend_codes(&Window::whole(list..list + 1))
    }

    fn spend_codes(&self, window: &Window) -> Result<(), BuilderError> {
        let [own, second] = self.codes;
        let from = Column { table: &self.spilled.second, segment: pass::SPILLED_FROM, width: 8 };
        // Rows that lists are coded from are still to be written.
        let spent = if self.trained.codec.codes_residuals() { vec![second, from] } else { vec![own, second, from] };
        self.done_with(&spent, window)
    }

    /// Codes of some rows of a list, which has its own rows and then the spilled.
    fn codes_of(&self, list: usize, rows: Range<u64>) -> Result<Vec<u8>, BuilderError> {
        let count = self.entries[list].count;
        let [own, second] = self.codes;
        let of = |column: Column<'_>, rows: Range<u64>| {
            self.spilled.read(column, &Window::part(list, rows), column.width, |_, bytes| bytes)
        };
        let mut codes = of(own, rows.start.min(count)..rows.end.min(count))?;
        codes.extend(of(second, rows.start.saturating_sub(count)..rows.end.saturating_sub(count))?);
        Ok(codes)
    }

    /// Bytes of a list, or of whole blocks of one, but for the positions of its spilled rows.
    fn encode(&self, list: usize, codes: &[u8]) -> Vec<u8> {
        let (centroids, codec) = (self.trained.tree.centroids(), &self.trained.codec);
        let centroid = centroids.row(list).to_vec();
        let mut bytes = Vec::new();
        let residuals = match codec {
            Codec::Sq8(_) => {
                let rows = rows_of(self.build, codes);
                let all: Vec<usize> = (0..rows.len()).collect();
                residuals(&rows, &all, self.build.metric, centroids, |_| list as u32)
            }
            Codec::Pq(_) | Codec::Pq4(_) | Codec::Rabitq(_) => Array2::zeros((0, 0)),
        };
        let codes = if codec.codes_residuals() { &[] } else { codes };
        let rows = ListRows { centroid: &centroid, residuals: residuals.view(), codes };
        codec.encode_list(rows, self.build.metric, &mut bytes);
        bytes
    }

    /// Positions of the spilled rows of a window, u32 each.
    fn positions(&self, window: &Window) -> Result<Vec<u8>, BuilderError> {
        let column = Column { table: &self.spilled.second, segment: pass::SPILLED_FROM, width: 8 };
        let own = &self.spilled.own;
        // Where the rows of a unit begin in each list, for one unit after another.
        let mut begins: Vec<u64> = self.entries.iter().map(|entry| entry.first).collect();
        self.spilled.read(column, window, 4, |unit, bytes| {
            let position = |from: &[u8; 8]| {
                let (list, rank) = (crate::file::u32_at(from, 0) as usize, crate::file::u32_at(from, 4));
                position_of(begins[list] + u64::from(rank))
            };
            let positions = bytes.as_chunks::<8>().0.iter().flat_map(position).collect();
            begins.iter_mut().enumerate().for_each(|(list, begin)| *begin += u64::from(own.count(unit, list)));
            positions
        })
    }

    fn write_vectors(
        &self,
        vectors: Column<'_>,
        record: VectorRecord,
        sink: &mut SectionSink<'_>,
    ) -> Result<(), BuilderError> {
        let windows = windows(&self.spilled.own.totals, self.build.plan.window_rows);
        for (window, steps) in windows.into_iter().zip(1..).skip(sink.steps() as usize) {
            let rows = rows_of(self.build, &self.spilled.read(vectors, &window, vectors.width, |_, bytes| bytes)?);
            let mut records = vec![0; rows.len() * record.bytes()];
            dispatch_rows!(rows.view(), v => records
                .par_chunks_exact_mut(record.bytes())
                .enumerate()
                .for_each(|(i, into)| write_record(v.row(i), record, into)));
            sink.write(&records)?;
            self.build.progress.advance(rows.len() as u64);
            self.done_with(&[vectors], &window)?;
            self.mark(sink, steps)?;
        }
        Ok(())
    }

    /// The data set's row at each position.
    fn write_numbers(&self, sink: &mut SectionSink<'_>) -> Result<(), BuilderError> {
        let column = Column { table: &self.spilled.own, segment: pass::NUMBERS, width: 4 };
        for window in windows(&self.spilled.own.totals, self.build.plan.window_rows) {
            let numbers = self.spilled.read(column, &window, 4, |unit, bytes| {
                let first = self.spilled.first_rows[unit];
                let number = |within: &[u8; 4]| position_of(first + u64::from(u32::from_le_bytes(*within)));
                bytes.as_chunks::<4>().0.iter().flat_map(number).collect()
            })?;
            sink.write(&numbers)?;
            self.done_with(&[column], &window)?;
        }
        Ok(())
    }
}

/// A row's number or position, as the file has it. Builds of more rows than it can name are refused before they begin.
fn position_of(number: u64) -> [u8; 4] {
    debug_assert!(number < plan::ROWS_AT_MOST);
    (number as u32).to_le_bytes()
}
