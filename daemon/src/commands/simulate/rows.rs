//! The rows of a CSV file (RFC 4180), each in a bounded buffer.

use csv_core::{ReadRecordResult, Reader};
use serde_json::Number;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of one row, as read.
const MAX_ROW: usize = 64 * 1024;
/// Columns.
const MAX_COLUMNS: usize = 1024;
const READ_AT_ONCE: usize = 64 * 1024;

/// Why a file cannot be replayed further.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowError {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("is empty; expected a row of column names")]
    NoHeader,
    #[error("line {line}: the column {name:?} is there twice")]
    ColumnTwice { line: u64, name: String },
    #[error("line {line}: a row is longer than {MAX_ROW} bytes; is a quote not closed?")]
    TooLong { line: u64 },
    #[error("line {line}: a row has more than {MAX_COLUMNS} columns")]
    TooManyColumns { line: u64 },
    #[error("line {line}: a row has {found} columns, the first row has {expected}")]
    Columns { line: u64, found: usize, expected: usize },
    #[error("line {line}: not UTF-8 text")]
    NotText { line: u64 },
    #[error("line {line}: {what}")]
    Cell { line: u64, what: String },
}

/// Reads rows one by one.
pub(super) struct Rows<R> {
    input: R,
    parser: Reader,
    buffer: Vec<u8>,
    /// What is left to parse of the buffer.
    left: std::ops::Range<usize>,
    fields: Vec<u8>,
    ends: Vec<usize>,
    /// How much of `fields` and `ends` the row being read has filled.
    filled: (usize, usize),
    columns: Vec<String>,
    /// Line breaks read, and whether the last byte read was one.
    lines: u64,
    at_line_start: bool,
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// The line that it ends on, counted from 1.
    pub(super) line: u64,
    pub(super) cells: Vec<String>,
}

impl<R: AsyncRead + Unpin> Rows<R> {
    /// Reads the names of the columns.
    pub(super) async fn open(input: R) -> Result<Self, RowError> {
        let mut rows = Self {
            input,
            parser: Reader::new(),
            buffer: vec![0; READ_AT_ONCE],
            left: 0..0,
            fields: vec![0; MAX_ROW],
            ends: vec![0; MAX_COLUMNS],
            filled: (0, 0),
            columns: Vec::new(),
            lines: 0,
            at_line_start: false,
        };
        let header = rows.record().await?.ok_or(RowError::NoHeader)?;
        for (index, name) in header.cells.iter().enumerate() {
            if header.cells[..index].contains(name) {
                return Err(RowError::ColumnTwice { line: header.line, name: name.clone() });
            }
        }
        rows.columns = header.cells;
        Ok(rows)
    }

    /// The names of the columns.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The next row, with a cell for each column; none after the last. Empty lines are passed over.
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Row>, RowError> {
        let Some(row) = self.record().await? else { return Ok(None) };
        let (found, expected) = (row.cells.len(), self.columns.len());
        if found == expected {
            Ok(Some(row))
        } else {
            Err(RowError::Columns { line: row.line, found, expected })
        }
    }

    async fn record(&mut self) -> Result<Option<Row>, RowError> {
        let mut at_end = false;
        loop {
            if self.left.is_empty() && !at_end {
                let length = self.input.read(&mut self.buffer).await?;
                self.left = 0..length;
                at_end = length == 0;
            }
            let (in_fields, in_ends) = self.filled;
            let (result, read, written, ended) = self.parser.read_record(
                &self.buffer[self.left.clone()],
                &mut self.fields[in_fields..],
                &mut self.ends[in_ends..],
            );
            let parsed = &self.buffer[self.left.start..self.left.start + read];
            self.lines += parsed.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.at_line_start = parsed.last().map_or(self.at_line_start, |byte| *byte == b'\n');
            self.left.start += read;
            self.filled = (in_fields + written, in_ends + ended);
            let line = self.line();
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => return Err(RowError::TooLong { line }),
                ReadRecordResult::OutputEndsFull => return Err(RowError::TooManyColumns { line }),
                ReadRecordResult::Record => return self.take_row().map(Some),
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    /// The line that the last byte read belongs to.
    fn line(&self) -> u64 {
        self.lines + u64::from(!self.at_line_start)
    }

    fn take_row(&mut self) -> Result<Row, RowError> {
        let (_, ends) = std::mem::take(&mut self.filled);
        let line = self.line();
        let mut start = 0;
        let cells = self.ends[..ends].iter().map(|end| {
            let cell = std::str::from_utf8(&self.fields[start..*end]);
            start = *end;
            cell.map(str::to_owned).map_err(|_| RowError::NotText { line })
        });
        Ok(Row { line, cells: cells.collect::<Result<_, _>>()? })
    }
}

/// A row as a JSON object with the columns as keys: what is written like a JSON number stays that
/// number, digit by digit; an empty cell is null; the rest is text.
pub(super) fn to_json(columns: &[String], cells: &[String]) -> Result<Vec<u8>, serde_json::Error> {
    let mut json = vec![b'{'];
    for (index, (column, cell)) in columns.iter().zip(cells).enumerate() {
        if index > 0 {
            json.push(b',');
        }
        serde_json::to_writer(&mut json, column)?;
        json.push(b':');
        if cell.is_empty() {
            json.extend_from_slice(b"null");
        } else if cell.trim() == cell && serde_json::from_str::<Number>(cell).is_ok() {
            json.extend_from_slice(cell.as_bytes());
        } else {
            serde_json::to_writer(&mut json, cell)?;
        }
    }
    json.push(b'}');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &[u8]) -> Result<(Vec<String>, Vec<Row>), RowError> {
        let mut rows = Rows::open(text).await?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().await? {
            found.push(row);
        }
        Ok((rows.columns().to_vec(), found))
    }

    async fn refused(text: &[u8]) -> String {
        all(text).await.unwrap_err().to_string()
    }

    fn row(line: u64, cells: &[&str]) -> Row {
        Row { line, cells: cells.iter().map(|cell| (*cell).to_owned()).collect() }
    }

    #[tokio::test]
    async fn rows_are_read_as_rfc_4180_says() {
        let text = b"date,temp\r\n2010,47.4\r\n\r\n\"a, \"\"b\"\"\nc\",\r\n,1";
        let (columns, rows) = all(text).await.unwrap();
        assert_eq!(columns, ["date", "temp"]);
        assert_eq!(
            rows,
            [row(2, &["2010", "47.4"]), row(5, &["a, \"b\"\nc", ""]), row(6, &["", "1"])]
        );
    }

    #[tokio::test]
    async fn a_byte_order_mark_is_not_part_of_a_name() {
        assert_eq!(all("\u{feff}a,b\n1,2\n".as_bytes()).await.unwrap().0, ["a", "b"]);
    }

    #[tokio::test]
    async fn a_file_larger_than_the_buffer_is_read_to_its_end() {
        let mut text = "a,b\n".to_owned();
        for n in 0..50_000 {
            text.push_str(&format!("{n},\"x{n}\"\n"));
        }
        let (_, rows) = all(text.as_bytes()).await.unwrap();
        assert_eq!(rows.len(), 50_000);
        assert_eq!(rows[49_999], row(50_001, &["49999", "x49999"]));
    }

    #[tokio::test]
    async fn what_is_not_a_table_is_refused_with_its_line() {
        assert_eq!(refused(b"").await, "is empty; expected a row of column names");
        assert_eq!(refused(b"a,b,a\n").await, "line 1: the column \"a\" is there twice");
        assert_eq!(
            refused(b"a,b\n1,2\n1,2,3\n").await,
            "line 3: a row has 3 columns, the first row has 2"
        );
        assert_eq!(refused(b"a\n1\n\xff\n").await, "line 3: not UTF-8 text");
        let endless = format!("a\n1\n\"{}", "x".repeat(MAX_ROW + 1));
        assert_eq!(
            refused(endless.as_bytes()).await,
            "line 3: a row is longer than 65536 bytes; is a quote not closed?"
        );
        let wide = ",".repeat(MAX_COLUMNS);
        assert_eq!(refused(wide.as_bytes()).await, "line 1: a row has more than 1024 columns");
    }

    #[test]
    fn numbers_stay_as_they_were_written() {
        let json = |cell: &str| {
            let json = to_json(&["v".to_owned()], &[cell.to_owned()]).unwrap();
            String::from_utf8(json).unwrap()
        };
        assert_eq!(json("47.40"), r#"{"v":47.40}"#);
        assert_eq!(json("-1e3"), r#"{"v":-1e3}"#);
        assert_eq!(json(""), r#"{"v":null}"#);
        for text in ["007", "1.", "+1", "NaN", " 1", "1,5", "1e999", "a\"b"] {
            let value: serde_json::Value = serde_json::from_str(&json(text)).unwrap();
            assert_eq!(value["v"], text);
        }
    }
}
