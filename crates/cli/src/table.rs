//! Columns for people.

use std::fmt;

/// Rows of cells under a header; each column as wide as its widest cell.
#[derive(Debug, Default)]
pub struct Table {
    /// Cells, and whether the last one may reach over the columns that follow.
    rows: Vec<(Vec<String>, bool)>,
}

impl Table {
    pub fn new(header: &[&str]) -> Table {
        Table { rows: vec![(header.iter().map(|cell| (*cell).to_owned()).collect(), false)] }
    }

    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push((row, false));
    }

    /// A row whose last cell is a sentence and reaches over the columns that follow.
    pub fn push_wide(&mut self, row: Vec<String>) {
        self.rows.push((row, true));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths: Vec<usize> = Vec::new();
        for (row, is_wide) in &self.rows {
            for (column, cell) in row.iter().take(row.len() - usize::from(*is_wide)).enumerate() {
                widths.resize(widths.len().max(column + 1), 0);
                widths[column] = widths[column].max(cell.chars().count());
            }
        }
        for (row, _) in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line += &format!("{cell:<width$}  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Words in lines of at most 100 columns, indented by two.
pub fn wrapped<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut lines = vec![String::from(" ")];
    for word in words {
        if lines.last().is_some_and(|line| line.len() > 1 && line.len() + 1 + word.len() > 100) {
            lines.push(String::from(" "));
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["a", "bb"]);
        table.push(vec!["long".into(), "x".into()]);
        table.push_wide(vec!["é".into(), "a whole sentence".into()]);
        assert_eq!(table.to_string(), "a     bb\nlong  x\né     a whole sentence\n");
    }

    #[test]
    fn words_are_wrapped_and_none_is_lost() {
        let words = vec!["cudaMemcpy"; 40];
        let text = wrapped(words.iter().copied());
        assert!(text.lines().all(|line| line.len() <= 100 && line.starts_with("  ")));
        assert_eq!(text.split_whitespace().count(), 40);
    }
}
