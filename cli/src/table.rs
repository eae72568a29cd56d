//! Tables in the shape of `lsblk`: no boxes, aligned columns, one thing a line.
//!
//! Promise: no trailing blanks; a column that is empty in every row is as narrow as its title.
//! Knows nothing of what the cells mean.

/// To which side a column's cells are pushed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table being filled.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Titles with a leading `>` belong to columns of numbers, which are pushed to the right.
    pub(crate) fn new(titles: &[&'static str]) -> Table {
        let column = |title: &&'static str| match title.strip_prefix('>') {
            Some(title) => (title, Align::Right),
            None => (*title, Align::Left),
        };
        Table { columns: titles.iter().map(column).collect(), rows: Vec::new() }
    }

    /// One more line; cells that are missing at the end are empty.
    pub(crate) fn row<I: IntoIterator<Item = S>, S: Into<String>>(&mut self, cells: I) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether there is nothing under the titles.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, titles first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let titles: Vec<String> = self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        let all = || std::iter::once(&titles).chain(&self.rows);
        let width = |column: usize| all().filter_map(|row| row.get(column)).map(|cell| width_of(cell)).max();
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| width(column).unwrap_or(0)).collect();
        all().map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (index, ((_, align), width)) in self.columns.iter().zip(widths).enumerate() {
            let cell = row.get(index).map_or("", String::as_str);
            let blanks = " ".repeat(width.saturating_sub(width_of(cell)));
            if index > 0 {
                line.push_str("  ");
            }
            match align {
                Align::Left => line.extend([cell, &blanks]),
                Align::Right => line.extend([blanks.as_str(), cell]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

fn width_of(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_boxes_or_trailing_blanks() {
        let mut table = Table::new(&["NAME", ">SIZE", "TAGS"]);
        assert!(table.is_empty());
        table.row(["sda", "1.0 TiB", "weekly"]);
        table.row(["nvme0n1", "512 B"]);
        assert_eq!(table.lines(), ["NAME        SIZE  TAGS", "sda      1.0 TiB  weekly", "nvme0n1    512 B"]);
    }

    #[test]
    fn letters_are_counted_not_bytes() {
        let mut table = Table::new(&["LABEL", ">N"]);
        table.row(["año", "1"]);
        table.row(["x", "22"]);
        assert_eq!(table.lines(), ["LABEL   N", "año     1", "x      22"]);
    }
}
