//! The completions of penctl's words: the words that are allowed at each position after a command.
//! They are made from the table of commands, as scripts for bash, zsh and fish. clap generates
//! those of pen; it cannot let one word depend on the words before it.

use std::collections::BTreeMap;

use pen_config::command::{COMMANDS, Entry, server_keys, setting_words};

/// Prints the numbers of servers. Without a terminal, each number is the first word of a line.
const NUMBERS: &str = "penctl \"$address\" servers 2>/dev/null | cut -d' ' -f1";

/// Options, which come before the address.
const OPTIONS: &str = "--json --timeout --help --version";

/// Commands of penctl itself.
const OWN: [&str; 1] = ["top"];

/// The literal words of an argument.
fn literals(argument: &str) -> impl Iterator<Item = &str> {
    let plain = |word: &&str| {
        word.bytes().all(|byte| byte.is_ascii_lowercase() || b"0123456789_.".contains(&byte))
    };
    argument.trim_matches(['[', ']']).split('|').filter(|word| !word.is_empty()).filter(plain)
}

/// The words that are allowed at a position, from 1, after a command. If a word is optional, the
/// next argument's words are allowed too.
fn words_at(entry: &Entry, position: usize) -> Vec<&'static str> {
    match (entry.word, position) {
        ("help", 1) => COMMANDS.iter().map(|entry| entry.word).collect(),
        ("show", 1) => setting_words().collect(),
        ("proxy_protocol", 1) => vec!["in", "out"],
        ("proxy_protocol", 2) => vec!["from", "off", "v1", "v2"],
        ("help" | "proxy_protocol" | "server" | "show", _) => Vec::new(),
        _ => {
            let arguments: Vec<&'static str> = entry.arguments.split(' ').collect();
            let from = position - 1;
            let optional = arguments.get(from).is_some_and(|argument| argument.starts_with('['));
            let until = from + 1 + usize::from(optional);
            arguments
                .iter()
                .take(until)
                .skip(from)
                .flat_map(|argument| literals(argument))
                .collect()
        }
    }
}

/// Every position with its allowed words: `COMMAND:POSITION`, and `:0` for the command itself.
fn positions() -> Vec<(Vec<String>, String)> {
    let words = COMMANDS.iter().map(|entry| entry.word).chain(["no"]).chain(OWN);
    let all = words.collect::<Vec<_>>().join(" ");
    let negatable: Vec<&str> =
        COMMANDS.iter().filter(|entry| entry.negatable).map(|entry| entry.word).collect();
    let mut positions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in COMMANDS {
        for position in 1..=entry.arguments.split(' ').count() {
            let words = words_at(entry, position).join(" ");
            if !words.is_empty() {
                positions.entry(words).or_default().push(format!("{}:{position}", entry.word));
            }
        }
    }
    let mut found =
        vec![(vec![":0".to_owned()], all), (vec!["no:1".to_owned()], negatable.join(" "))];
    found.extend(positions.into_iter().map(|(words, keys)| (keys, words)));
    let keys = server_keys().collect::<Vec<_>>().join(" ");
    found.push((vec!["server:*[02468]".to_owned()], keys));
    found
}

/// The positions of server numbers.
const SERVERS: [&str; 2] = ["server:1", "no server:1"];

/// The arms of a `case`, for bash and zsh.
fn arms() -> String {
    // A colon does not end a pattern, and a space must be quoted.
    let quoted = |keys: &[String]| {
        keys.iter().map(|key| key.replace(' ', "\\ ")).collect::<Vec<_>>().join(" | ")
    };
    let fixed = positions()
        .into_iter()
        .map(|(keys, words)| format!("    {}) choices='{words}' ;;\n", quoted(&keys)));
    let servers = SERVERS.map(str::to_owned);
    fixed.chain([format!("    {}) choices=$({NUMBERS}) ;;\n", quoted(&servers))]).collect()
}

/// For bash. Its own words end at colons, so the script splits the line again.
pub(super) fn bash() -> String {
    let arms = arms();
    format!(
        r#"# Made of the table of commands: UPDATE_DOCS=1 cargo test -p pen manual
_penctl() {{
    local line=${{COMP_LINE:0:COMP_POINT}} cur= word last= choices=
    local -a words said
    read -ra words <<<"$line"
    if [[ $line != *[[:space:]] ]]; then
        cur=${{words[${{#words[@]}}-1]}}
        unset "words[${{#words[@]}}-1]"
    fi
    for word in "${{words[@]:1}}"; do
        [[ $word == --* || $last == --timeout ]] || said+=("$word")
        last=$word
    done
    # Further addresses.
    while ((${{#said[@]}} > 1)) && [[ ${{said[1]}} == *[/:]* || ${{said[1]}} != *[!0-9]* ]]; do
        said=("${{said[0]}}" "${{said[@]:2}}")
    done
    if ((${{#said[@]}} == 0)); then
        [[ $cur == -* ]] && COMPREPLY=($(compgen -W '{OPTIONS}' -- "$cur"))
        return
    fi
    local address=${{said[0]}} command=${{said[1]-}} place=$((${{#said[@]}} - 1))
    if [[ $command == no ]] && ((place > 1)); then
        command="no ${{said[2]}}" place=$((place - 1))
    fi
    case "$command:$place" in
{arms}    esac
    COMPREPLY=($(compgen -W "$choices" -- "$cur"))
}}

complete -o default -F _penctl penctl
"#
    )
}

/// For zsh.
pub(super) fn zsh() -> String {
    let arms = arms();
    format!(
        r#"#compdef penctl
# Made of the table of commands: UPDATE_DOCS=1 cargo test -p pen manual
_penctl() {{
    local word last= choices=
    local -a said
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        [[ $word == --* || $last == --timeout ]] || said+=("$word")
        last=$word
    done
    # Further addresses.
    while (( $#said > 1 )) && [[ $said[2] == *[/:]* || $said[2] != *[^0-9]* ]]; do
        said[2]=()
    done
    if (( $#said == 0 )); then
        [[ $PREFIX == -* ]] && compadd -- {OPTIONS}
        _files
        return
    fi
    local address=$said[1] command=$said[2]
    local -i place=$(( $#said - 1 ))
    if [[ $command == no ]] && (( place > 1 )); then
        command="no $said[3]" place=$(( place - 1 ))
    fi
    case "$command:$place" in
{arms}    esac
    if [[ -n $choices ]]; then compadd -- ${{=choices}}; else _files; fi
}}

if [ "$funcstack[1]" = "_penctl" ]; then
    _penctl "$@"
else
    compdef _penctl penctl
fi
"#
    )
}

/// For fish.
pub(super) fn fish() -> String {
    let quoted =
        |keys: Vec<String>| keys.iter().map(|key| format!("'{key}'")).collect::<Vec<_>>().join(" ");
    let mut arms = String::new();
    for (keys, words) in positions() {
        // A pattern has no character classes here.
        let keys = keys.iter().flat_map(|key| match key.strip_suffix("[02468]") {
            Some(begin) => {
                ["0", "2", "4", "6", "8"].map(|digit| format!("{begin}{digit}")).to_vec()
            }
            None => vec![key.clone()],
        });
        arms.push_str(&format!(
            "        case {}\n            string split ' ' '{words}'\n",
            quoted(keys.collect())
        ));
    }
    arms.push_str(&format!(
        "        case {}\n            {NUMBERS}\n",
        quoted(SERVERS.map(str::to_owned).to_vec())
    ));
    format!(
        r#"# Made of the table of commands: UPDATE_DOCS=1 cargo test -p pen manual
function __penctl_said
    set -l last
    set -l said
    for word in (commandline -opc)[2..]
        if not string match -q -- '--*' $word; and test "$last" != --timeout
            set -a said $word
        end
        set last $word
    end
    # Further addresses.
    while test (count $said) -gt 1; and string match -qr -- '[/:]|^[0-9]+$' $said[2]
        set -e said[2]
    end
    test (count $said) -gt 0; and printf '%s\n' $said
end

function __penctl_choices
    set -l said (__penctl_said)
    test (count $said) -eq 0; and return
    set -l address $said[1]
    set -l command "$said[2]"
    set -l place (math (count $said) - 1)
    if test "$command" = no; and test $place -gt 1
        set command "no $said[3]"
        set place (math $place - 1)
    end
    switch "$command:$place"
{arms}    end
end

complete -c penctl -n 'test (count (__penctl_said)) -eq 0' -l json -d 'Reply in JSON'
complete -c penctl -n 'test (count (__penctl_said)) -eq 0' -l timeout -x -d 'Seconds to wait without progress'
complete -c penctl -n 'test (count (__penctl_said)) -eq 0' -l help -d 'Print help'
complete -c penctl -n 'test (count (__penctl_said)) -eq 0' -l version -d 'Print the version'
complete -c penctl -n 'test (count (__penctl_choices)) -gt 0' -f
complete -c penctl -a '(__penctl_choices)'
"#
    )
}
