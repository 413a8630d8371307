//! `vgpu env`: the variables of `vgpu run`, for launchers and scripts.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use crate::environment::Variables;
use crate::failure::{Failure, Outcome};
use crate::libraries::Libraries;
use crate::options::{self, Format};
use crate::run::{current, named_list};
use crate::soft::{self, Lifeline};

/// Prints them.
pub(crate) fn run(options: &options::Env) -> Outcome {
    let libraries = Libraries::find()?;
    let mut list = named_list(&options.launch)?;
    if let Some(count) = options.launch.soft {
        let process = options.until.ok_or_else(|| {
            Failure::own("--soft needs the process that its devices end with, as in: eval \"$(vgpu env --soft --until $$)\"")
        })?;
        list = Some(soft::start(count, &Lifeline::of(process)?)?);
    }
    let mut variables = Variables::new(&libraries, &[], list.as_deref(), options.launch.summary, &current)?;
    if options.launch.soft.is_some() {
        variables.ask_for_ptx(&current);
    }
    let text = match options.format {
        Format::Sh => exports(&variables),
        Format::Json => json(&variables)?.into_bytes(),
    };
    let written = std::io::stdout().write_all(&text);
    written.map_err(|error| Failure::own(format_args!("writing the variables: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

fn exports(variables: &Variables) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in &variables.0 {
        text.extend_from_slice(format!("export {name}=").as_bytes());
        text.extend(quoted(value));
        text.push(b'\n');
    }
    text
}

/// A word that any POSIX shell reads as it is: in single quotes, in which only a single quote has a meaning.
fn quoted(value: &OsStr) -> Vec<u8> {
    let bytes = value.as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./:@,+=%".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        return bytes.to_vec();
    }
    let mut word = vec![b'\''];
    for byte in bytes {
        match byte {
            b'\'' => word.extend_from_slice(b"'\\''"),
            other => word.push(*other),
        }
    }
    word.push(b'\'');
    word
}

fn json(variables: &Variables) -> Outcome<String> {
    let mut object = serde_json::Map::new();
    for (name, value) in &variables.0 {
        let text = value.to_str().ok_or_else(|| {
            Failure::own(format_args!(
                "{name}={} is not UTF-8, as JSON needs it; use --format sh",
                value.display()
            ))
        })?;
        object.insert((*name).to_owned(), text.into());
    }
    Ok(format!("{:#}\n", serde_json::Value::Object(object)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for value in
            ["plain/path:x", "two words", "it's", "$HOME `id` \"x\" \\", "a\nb", "", "'", "é*?[]~#&;|<>()!"]
        {
            let variables = Variables(vec![("VALUE", value.into())]);
            let script = [exports(&variables), b"printf %s \"$VALUE\"".to_vec()].concat();
            let script = String::from_utf8(script).unwrap();
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), value, "{script}");
        }
    }

    #[test]
    fn json_is_one_object_or_a_reason() {
        let variables = Variables(vec![("VGPU_SERVER", "a:0 \"b\"".into())]);
        let value: serde_json::Value = serde_json::from_str(&json(&variables).unwrap()).unwrap();
        assert_eq!(value, serde_json::json!({ "VGPU_SERVER": "a:0 \"b\"" }));
        let bytes = Variables(vec![("LD_LIBRARY_PATH", OsStr::from_bytes(b"/\xff").into())]);
        assert!(json(&bytes).unwrap_err().to_string().contains("LD_LIBRARY_PATH"));
    }
}
