//! Tables of `docs/policies.md` that tests write.

/// Compares a table with the one between `<!-- NAME: written by a test -->` and `<!-- /NAME -->`, or writes it there.
pub(crate) fn hold(name: &str, table: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/policies.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (begin, end) = (format!("<!-- {name}: written by a test -->\n"), format!("<!-- /{name} -->\n"));
    let (before, rest) = page.split_once(&begin).unwrap();
    let (written, behind) = rest.split_once(&end).unwrap();
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{begin}\n{table}\n{end}{behind}")).unwrap();
    } else {
        assert_eq!(written.trim(), table.trim(), "run this test with WRITE_DOCS=1, and read the change");
    }
}
