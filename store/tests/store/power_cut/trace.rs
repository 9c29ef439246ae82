//! What strace wrote, read back: calls, and the order in which they began and ended.
//!
//! It is run with `-f -y -xx -v`: every line begins with the thread, descriptors carry their path, every string is
//! hexadecimal throughout, and nothing is abbreviated.

use std::collections::HashMap;

/// One system call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    /// None: it never returned. Of a refusal it is negative.
    pub(crate) result: Option<i64>,
}

/// What happened next, by the call's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Begins(usize),
    Ends(usize),
}

/// Reads a whole log.
pub(crate) fn parse(log: &str) -> (Vec<Call>, Vec<Moment>) {
    let (mut calls, mut moments) = (Vec::<Call>::new(), Vec::new());
    let mut unfinished = HashMap::new();
    for line in log.lines() {
        let (thread, text) = line.split_once(char::is_whitespace).unwrap_or_else(|| panic!("strace says {line:?}"));
        let text = text.trim_start();
        // A thread that was gone before strace had read its arguments: whoever compares with the disk sees what it did.
        if text.starts_with("+++") || text.starts_with("---") || text.contains("<detached ...>") {
            continue;
        }
        if let Some(rest) = text.strip_prefix("<... ") {
            let (name, rest) = rest.split_once(" resumed>").unwrap_or_else(|| panic!("strace says {line:?}"));
            let call: usize = unfinished.remove(thread).unwrap_or_else(|| panic!("nothing to resume: {line:?}"));
            assert_eq!(calls[call].name, name, "{line:?}");
            calls[call].result = result(rest);
            if calls[call].result.is_some() {
                moments.push(Moment::Ends(call));
            }
            continue;
        }
        let (name, rest) = text.split_once('(').unwrap_or_else(|| panic!("strace says {line:?}"));
        moments.push(Moment::Begins(calls.len()));
        let cut = rest.find(" <unfinished ...>").or_else(|| rest.find("<unfinished ...>"));
        let (args, result) = match cut {
            Some(end) => (&rest[..end], None),
            None => {
                let end = rest.rfind(" = ").unwrap_or_else(|| panic!("strace says {line:?}"));
                let args = rest[..end].trim_end();
                (args.strip_suffix(')').unwrap_or(args), result(rest))
            }
        };
        if result.is_some() {
            moments.push(Moment::Ends(calls.len()));
        } else {
            unfinished.insert(thread.to_owned(), calls.len());
        }
        calls.push(Call { name: name.to_owned(), args: split(args), result });
    }
    (calls, moments)
}

/// What stands behind the last ` = `; None for `?`.
fn result(text: &str) -> Option<i64> {
    let (_, text) = text.rsplit_once(" = ")?;
    match text.strip_prefix("0x") {
        // An address or a set of flags: it matters only that it is no refusal.
        Some(_) => Some(0),
        None => text[..text.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(text.len())].parse().ok(),
    }
}

/// Splits at the commas that stand in no bracket.
fn split(args: &str) -> Vec<String> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, byte) in args.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(args[begin..at].trim().to_owned());
                begin = at + 1;
            }
            _ => {}
        }
    }
    let last = args[begin..].trim();
    if !last.is_empty() {
        parts.push(last.to_owned());
    }
    parts
}

impl Call {
    /// An argument; one that lacks is a bug here or there.
    pub(crate) fn arg(&self, number: usize) -> &str {
        self.args.get(number).unwrap_or_else(|| panic!("there is no argument {number}: {}", self.brief()))
    }

    pub(crate) fn number(&self, arg: usize) -> i64 {
        let text = self.arg(arg);
        let digits = &text[..text.find('<').unwrap_or(text.len())];
        let parsed = match digits.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16),
            None => digits.parse(),
        };
        parsed.unwrap_or_else(|_| panic!("argument {arg} is no number: {}", self.brief()))
    }

    pub(crate) fn unsigned(&self, arg: usize) -> u64 {
        u64::try_from(self.number(arg)).unwrap_or_else(|_| panic!("argument {arg} is negative: {}", self.brief()))
    }

    /// The path that a descriptor carries.
    pub(crate) fn annotation(&self, arg: usize) -> Option<Vec<u8>> {
        let (_, rest) = self.arg(arg).split_once('<')?;
        let (path, _) = rest.split_once('>')?;
        Some(self.bytes(path))
    }

    /// A string argument.
    pub(crate) fn string(&self, arg: usize) -> Vec<u8> {
        let text = self.arg(arg).strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        // One that was too long ends in dots.
        self.bytes(text.unwrap_or_else(|| panic!("argument {arg} is no whole string: {}", self.brief())))
    }

    /// What an array of buffers holds, one after another.
    pub(crate) fn buffers(&self, arg: usize) -> Vec<u8> {
        let text = self.arg(arg);
        assert!(!text.contains("..."), "argument {arg} is abbreviated: {}", self.brief());
        let parts = text.split("iov_base=\"").skip(1);
        parts.flat_map(|part| self.bytes(&part[..part.find('"').unwrap_or(part.len())])).collect()
    }

    fn bytes(&self, hexadecimal: &str) -> Vec<u8> {
        let text = hexadecimal.as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let byte = |chunk: &[u8]| match *chunk {
            [b'\\', b'x', high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        };
        text.chunks(4).map(|chunk| byte(chunk).unwrap_or_else(|| panic!("not hexadecimal: {}", self.brief()))).collect()
    }

    /// For people: readable paths, long data cut.
    pub(crate) fn brief(&self) -> String {
        let readable = |arg: &String| {
            let mut text = arg.chars().take(1200).collect::<String>();
            for byte in 0x20..0x7f_u8 {
                text = text.replace(&format!("\\x{byte:02x}"), &char::from(byte).to_string());
            }
            text.chars().take(160).collect::<String>()
        };
        let args: Vec<_> = self.args.iter().map(readable).collect();
        format!("{}({}) = {:?}", self.name, args.join(", "), self.result)
    }
}
