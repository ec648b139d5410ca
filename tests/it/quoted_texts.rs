//! Every text of the program that the documents quote is one that the code still makes.
//!
//! The code's texts are its string literals, with holes where `{…}` is; a document's quotation has
//! holes where it leaves something out (`…`) or has a variable (`N rows`).

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
};

use proc_macro2::{Literal, TokenStream, TokenTree};

use crate::support::tree::{files, root};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Char(char),
    Hole,
}

use Part::{Char, Hole};

/// The string literals of the service's code, without comments and tests.
fn texts_of_the_code() -> Vec<Vec<Part>> {
    let mut literals = BTreeSet::new();
    for file in ["src", "crates"].iter().flat_map(|folder| files(&root().join(folder), &["rs"])) {
        let is_test = file.iter().any(|part| part == "tests") || file.to_str().unwrap().ends_with("tests.rs");
        if is_test {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        collect_literals(code.parse().unwrap(), &mut literals);
    }
    literals.iter().map(|literal| parts_of_template(literal)).filter(|parts| letters(parts) > 1).collect()
}

fn collect_literals(tokens: TokenStream, literals: &mut BTreeSet<String>) {
    let mut is_doc = false;
    for token in tokens {
        match &token {
            TokenTree::Group(group) => collect_literals(group.stream(), literals),
            TokenTree::Literal(literal) if !is_doc => literals.extend(unquoted(literal)),
            _ => {}
        }
        // A doc comment is the attribute `doc = "…"`.
        is_doc = match token {
            TokenTree::Ident(name) => name == "doc",
            TokenTree::Punct(equals) => is_doc && equals.as_char() == '=',
            _ => false,
        };
    }
}

/// The value of a string literal; `None` for other literals.
fn unquoted(literal: &Literal) -> Option<String> {
    let source = literal.to_string();
    if let Some(raw) = source.strip_prefix('r') {
        return Some(raw.trim_matches('#').strip_prefix('"')?.strip_suffix('"')?.to_owned());
    }
    let quoted = source.strip_prefix('"')?.strip_suffix('"')?;
    let (mut text, mut rest) = (String::new(), quoted);
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        // At the end of a line the line break and the indentation of the next line are left out.
        rest = match after.chars().next()? {
            '\n' => after.trim_start(),
            'n' => {
                text.push('\n');
                &after[1..]
            }
            escaped => {
                text.push(escaped);
                &after[escaped.len_utf8()..]
            }
        };
    }
    Some(text + rest)
}

fn letters(parts: &[Part]) -> usize {
    parts.iter().filter(|part| matches!(part, Char(c) if c.is_alphabetic())).count()
}

/// `{name:?}` is a hole, `{{` a brace.
fn parts_of_template(template: &str) -> Vec<Part> {
    let (mut parts, mut chars) = (Vec::new(), template.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '{' | '}' if chars.next_if_eq(&c).is_some() => parts.push(Char(c)),
            '{' => {
                chars.find(|c| *c == '}');
                parts.push(Hole);
            }
            c => parts.push(Char(c)),
        }
    }
    parts
}

/// `…`, `<uuid>` and single letters (`k of N`) are holes. Left out at the beginning and at the end
/// is nothing: a quotation may be a part of a text.
fn parts_of_quotation(quotation: &str) -> Vec<Part> {
    let (mut parts, mut rest) = (Vec::new(), quotation.trim_start_matches("… ").trim_end_matches('…').trim_end());
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let is_alone = !ends_in_word(&parts) && !after.starts_with(|c: char| c.is_ascii_alphanumeric());
        let (part, after) = match (c, after.split_once('>')) {
            ('<', Some((_, after))) => (Hole, after),
            ('…', _) => (Hole, after),
            ('k' | 'n' | 'N' | 'M', _) if is_alone => (Hole, after),
            _ => (Char(c), after),
        };
        parts.push(part);
        rest = after;
    }
    parts
}

fn ends_in_word(parts: &[Part]) -> bool {
    matches!(parts.last(), Some(Char(c)) if c.is_ascii_alphanumeric())
}

/// The texts of the code, against which quotations are held.
struct Texts {
    all: Vec<Vec<Part>>,
    /// Those that are added to others, as `; and 3 more` is.
    additions: Vec<Vec<Part>>,
    /// Whether this is a value, cut off or not.
    values: RefCell<HashMap<(Vec<Part>, bool), bool>>,
}

impl Texts {
    fn new(texts: Vec<Vec<Part>>) -> Self {
        let is_addition = |text: &&Vec<Part>| matches!(text[..], [Char(';' | ',' | '；' | '，'), ..]);
        let additions = texts.iter().filter(is_addition).cloned().collect();
        Self { all: texts, additions, values: RefCell::default() }
    }

    /// Whether the quotation is a part of a text, from the beginning of a word to the end of one.
    fn have(&self, quotation: &str) -> bool {
        let quotation = parts_of_quotation(quotation);
        self.all.iter().any(|text| (0..text.len()).any(|at| self.is_part(text, at, &quotation, true)))
    }

    /// Whether the quotation is the part of a text that begins here. If it is `cut`, it may end
    /// before the text does.
    fn is_part(&self, text: &[Part], at: usize, quotation: &[Part], cut: bool) -> bool {
        let (before, rest) = text.split_at(at);
        if rest[0] != Hole {
            let begins_word = !(ends_in_word(before) && ends_in_word(&rest[..1]));
            return begins_word && have_words_in_common(rest, quotation) && self.goes_on(rest, quotation, cut);
        }
        // No text begins here: that one is looked for anyway.
        (1..quotation.len()).any(|end| {
            let (value, after) = quotation.split_at(end);
            let is_value = is_plain_value(value) || before.is_empty() && FIELDS.contains(&as_text(value).as_str());
            is_value && have_words_in_common(&rest[1..], after) && self.goes_on(&rest[1..], after, cut)
        })
    }

    /// Whether the rest of a quotation fits the rest of a text.
    fn goes_on(&self, text: &[Part], quotation: &[Part], cut: bool) -> bool {
        match (text, quotation) {
            ([] | [Hole], []) => true,
            (_, []) => cut,
            ([], [Hole, after @ ..]) => self.goes_on(text, after, cut),
            ([], rest) => self.additions.iter().any(|next| self.goes_on(next, rest, cut)),
            ([part, text_after @ ..], [Hole, after @ ..]) => {
                self.goes_on(text, after, cut)
                    || self.goes_on(text_after, quotation, cut)
                    || *part == Hole && self.has_value(text_after, quotation, cut)
            }
            ([Hole, text_after @ ..], _) => self.has_value(text_after, quotation, cut),
            ([Char(_), ..], [Char(_)]) if is_inside_word(text) => false,
            ([Char(one), text_after @ ..], [Char(other), after @ ..]) => one == other && self.goes_on(text_after, after, cut),
        }
    }

    /// Whether the quotation goes on with a value. What follows the value is looked at first: that
    /// is fast, and hardly ever fits.
    fn has_value(&self, text_after: &[Part], quotation: &[Part], cut: bool) -> bool {
        (0..=quotation.len()).any(|end| {
            let (value, after) = quotation.split_at(end);
            self.goes_on(text_after, after, cut) && self.is_value(value, cut && after.is_empty())
        })
    }

    /// Whether this can stand where the code puts a value: it is one, or a text again, from its
    /// beginning.
    fn is_value(&self, parts: &[Part], cut: bool) -> bool {
        if is_plain_value(parts) || OF_CLIENTS.contains(&as_text(parts).as_str()) {
            return true;
        }
        if matches!(parts, [Hole | Char(' '), ..]) || !parts.contains(&Char(' ')) {
            return false;
        }
        let key = (parts.to_vec(), cut);
        if let Some(known) = self.values.borrow().get(&key) {
            return *known;
        }
        let is_text = self.all.iter().any(|text| self.is_part(text, 0, parts, cut));
        self.values.borrow_mut().insert(key, is_text);
        is_text
    }
}

/// A number or an id, a number of something, or a name with somebody's address: no words of prose.
fn is_plain_value(parts: &[Part]) -> bool {
    let is_letter = |part: &Part| matches!(part, Char(c) if c.is_ascii_alphabetic());
    let is_prose = |word: &[Part]| match word {
        [letters @ .., Char('.' | ',' | ';' | ':')] | letters => !letters.is_empty() && letters.iter().all(is_letter),
    };
    let words: Vec<&[Part]> = parts.split(|part| *part == Char(' ')).collect();
    match words[..] {
        [word] => !is_prose(word),
        [first, second] => !first.is_empty() && letters(first) == 0 || matches!(second, [Char('('), .., Char(')')]),
        _ => false,
    }
}

/// Whether both begin with the same few characters: a space or a colon between two values is not
/// enough.
fn have_words_in_common(text: &[Part], quotation: &[Part]) -> bool {
    let common = text.iter().zip(quotation).take_while(|(one, other)| one == other && **one != Hole).count();
    common >= quotation.len().min(4)
}

fn as_text(parts: &[Part]) -> String {
    parts.iter().map(|part| if let Char(c) = part { *c } else { '…' }).collect()
}

fn is_inside_word(text: &[Part]) -> bool {
    matches!(text, [Char(one), Char(next), ..] if one.is_ascii_alphanumeric() && next.is_ascii_alphanumeric())
}

/// The texts of the program that a document quotes.
fn quotations(text: &str) -> Vec<String> {
    let (mut quotations, mut is_fenced) = (Vec::new(), false);
    let mut prose = String::new();
    for line in text.lines() {
        is_fenced ^= line.trim_start().starts_with("```");
        if is_fenced || line.starts_with("    ") {
            quotations.extend(values_of_json(line));
            quotations.extend(line_of_a_log(line));
        } else {
            prose.push_str(line);
            prose.push(if line.is_empty() { '`' } else { ' ' });
            if line.is_empty() {
                quotations.extend(spans(&std::mem::take(&mut prose)));
            }
        }
    }
    quotations.extend(spans(&prose));
    quotations
}

/// Code in prose, if it has several words and is no command, option or value.
fn spans(paragraph: &str) -> Vec<String> {
    let spans = paragraph.split('`').skip(1).step_by(2).map(str::trim);
    spans.filter(|span| span.contains(' ') && !is_code(span)).map(str::to_owned).collect()
}

/// The texts in JSON: `"msg":"task created."`.
fn values_of_json(line: &str) -> Vec<String> {
    [r#""msg":"#, r#""text":"#, r#""ex":"#, r#""detail":"#, r#""erorr":"#, r#""reason":"#]
        .iter()
        .flat_map(|key| line.split(key).skip(1))
        .filter_map(|rest| serde_json::Deserializer::from_str(rest).into_iter::<String>().next()?.ok())
        .map(|text| text.strip_prefix("error message: ").unwrap_or(&text).to_owned())
        .filter(|text| !OF_CLIENTS.contains(&text.as_str()))
        .collect()
}

/// A line that a command prints: `2026-11-27T11:53:38.286Z  task finished: …`, and those of the
/// demo.
fn line_of_a_log(line: &str) -> Option<String> {
    let (label, text) = line.trim_start().split_once("  ")?;
    let is_time = chrono::DateTime::parse_from_rfc3339(label).is_ok();
    (is_time || ["sample", "broker", "log", "read back", "kill -9"].contains(&label)).then(|| text.trim().to_owned())
}

/// Fields that errors are quoted of.
const FIELDS: [&str; 2] = ["devices", "limit"];

/// What clients have said.
const OF_CLIENTS: [&str; 2] = ["ET was down, ticket 4711", "ticket 4711"];

/// The first words of code that is no text of the program: programs, commands, SQL, HTTP, Rust.
const CODE: [&str; 46] = [
    "data-patch",
    "apt",
    "apt-get",
    "cargo",
    "docker",
    "eval",
    "kubectl",
    "make",
    "node",
    "pip",
    "promtool",
    "psql",
    "python",
    "sed",
    "sqlite3",
    "systemctl",
    "systemd-analyze",
    "ulimit",
    "websocat",
    "submit",
    "watch",
    "show",
    "cancel",
    "pause",
    "resume",
    "rate",
    "retry",
    "receipt",
    "verify",
    "preview",
    "things",
    "devices",
    "completions",
    "man",
    "token",
    "yesterday",
    "ALTER",
    "BEGIN",
    "COPY",
    "WHERE",
    "GET",
    "PATCH",
    "POST",
    "mod",
    "trait",
    "n",
];

fn is_code(span: &str) -> bool {
    let first = span.split(' ').next().unwrap();
    let is_other = |c: char| c.is_ascii_digit() || matches!(c, '-' | '<');
    let is_formula = span.contains('‖');
    // An option, a lint or a path; a variable; a header.
    let is_name =
        first.contains(['.', '/', '=']) || first.contains("::") || first.ends_with(':') && first.starts_with(char::is_uppercase);
    CODE.contains(&first) || first.starts_with(is_other) || is_name || is_formula
}

#[test]
fn the_code_makes_every_text_that_the_documents_quote() {
    let texts = Texts::new(texts_of_the_code());
    let mut pages = files(&root().join("docs"), &["md"]);
    pages.extend(["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md"].map(|page| root().join(page)));
    let (mut count, mut unknown) = (0, Vec::new());
    for page in pages {
        for quotation in quotations(&std::fs::read_to_string(&page).unwrap()) {
            count += 1;
            if !texts.have(&quotation) {
                unknown.push(format!("{}: {quotation}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(unknown.is_empty(), "the code makes no such text:\n{}", unknown.join("\n"));
    assert!(count > 100, "only {count} quotations were found");
}

#[test]
fn a_quotation_is_held_to_the_letter() {
    let templates =
        ["device: {device} waits, nothing is lost ({} safe): {reason}. Trying again in {:.1} s", "Kafka is away: {0}"];
    let texts = Texts::new(templates.map(parts_of_template).to_vec());
    for (quotation, is_known) in [
        ("device: b34299aa-… waits, nothing is lost (5 rows safe): Kafka is away: 10.0.3.7:9092. Trying again in 0.5 s", true),
        ("… waits, nothing is lost (k rows safe): Kafka is away", true),
        ("Trying again", true),
        ("… waits, nothing is lost (k rows safe): Kafka is gone", false),
        ("waits, nothing was lost", false),
        ("aits, nothing is lost", false),
        ("waits, nothing is los", false),
    ] {
        assert_eq!(texts.have(quotation), is_known, "{quotation}");
    }
}
