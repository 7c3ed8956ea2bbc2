//! What a reader sees: figures, changes, trouble, and use by keyboard, phone and without script.

use std::path::Path;
use std::{env, fs};

use pen_status::{ServerState, samples};
use serde_json::{Value, json};

use super::site::{Mode, Site};
use crate::harness::browser::{Browser, Scheme, Script};
use crate::harness::{eventually, until};

/// A page of this site in a browser; none where there is no browser.
fn open(site: &Site, script: Script) -> Option<Browser> {
    let browser = Browser::start(script)?;
    browser.open(&site.url());
    Some(browser)
}

/// The addresses in the first column, from top to bottom, of the rows that are shown.
const SHOWN: &str = "[...document.querySelector('table.servers').tBodies[0].rows]\
    .filter(row => !row.hidden).map(row => row.id).join(' ')";

#[test]
fn the_figures_are_those_of_status_json() {
    let site = Site::serve(samples::half_down(5));
    let Some(browser) = open(&site, Script::On) else { return };
    let shown = browser.value(
        "[...document.querySelectorAll('table.servers tbody:not(.backups) tr')].map(row => \
         [Number(row.id.slice(1)), row.dataset.state, Number(row.cells[2].dataset.v), \
         Number(row.cells[6].dataset.v), Number(row.cells[7].dataset.v)])",
    );
    let json: Value = serde_json::from_str(&status_json(&browser)).unwrap();
    let wanted: Vec<Value> = json["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|server| {
            let failures = server["connect_failures"].as_array().unwrap().iter();
            let failures: u64 = failures.map(|part| part["count"].as_u64().unwrap()).sum();
            let both = server["sent"].as_u64().unwrap() + server["received"].as_u64().unwrap();
            json!([server["number"], server["state"], server["connections"], failures, both])
        })
        .collect();
    assert_eq!(shown, Value::Array(wanted));
    for figure in ["connections", "clients"] {
        let text = browser.text(&format!("document.getElementById('{figure}').textContent"));
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        assert_eq!(digits, json[figure].to_string());
    }
    assert_eq!(browser.messages(), Vec::<String>::new());
}

/// `/status.json`, as the page's origin gives it.
fn status_json(browser: &Browser) -> String {
    browser.value(
        "fetch('status.json').then(answer => answer.text()).then(text => globalThis.json = text)",
    );
    until("the figures are there", || browser.value("globalThis.json").as_str().map(str::to_owned))
}

#[test]
fn the_page_follows_the_state_and_keeps_its_place() {
    let site = Site::serve(samples::fine(40));
    let Some(browser) = open(&site, Script::On) else { return };
    browser.value(
        "globalThis.same = true; document.querySelector('details').open = true; \
         document.getElementById('filter').focus(); scrollTo(0, 500)",
    );
    let at = browser.value("scrollY");
    site.change(|status| status.connections = 4711);
    eventually("the page has the new figure", || {
        browser.text("document.getElementById('connections').textContent") == "4711"
    });
    assert_eq!(browser.value("scrollY"), at);
    site.change(|status| status.servers[1].state = ServerState::Failed);
    eventually("the page has the new state", || {
        browser.text("document.querySelector('table.servers tbody tr').id") == "s1"
    });
    assert_eq!(browser.text("document.querySelector('h1').textContent"), "39 of 40 servers are up");
    assert!(browser.text("document.title").starts_with("39 of 40 servers are up"));
    assert_eq!(browser.value("globalThis.same"), true, "it was not loaded as a whole");
    assert_eq!(browser.value("document.querySelector('details').open"), true);
    assert_eq!(browser.text("document.activeElement.id"), "filter");
    assert_eq!(browser.messages(), Vec::<String>::new());
}

#[test]
fn a_lost_connection_is_said_until_it_is_back() {
    let site = Site::serve(samples::fine(3));
    let Some(browser) = open(&site, Script::On) else { return };
    let note = "document.getElementById('lost').hidden ? '' : \
                document.getElementById('lost').textContent";
    for (mode, reason) in
        [(Mode::Gone, "pen cannot be reached"), (Mode::Unavailable, "pen answers 503")]
    {
        site.answer(mode);
        eventually("the page says that it has no figures", || browser.text(note).contains(reason));
        assert!(browser.text(note).starts_with("No figures since "));
        site.answer(Mode::Serves);
        eventually("the page has figures again", || browser.text(note).is_empty());
        assert_eq!(browser.value("document.documentElement.matches('.stale')"), false);
    }
}

#[test]
fn a_page_of_another_release_is_loaded_as_a_whole() {
    let site = Site::serve(samples::fine(3));
    let Some(browser) = open(&site, Script::On) else { return };
    browser.value("globalThis.same = true");
    site.answer(Mode::OtherRelease);
    eventually("the page is another one", || browser.value("globalThis.same") == Value::Null);
}

#[test]
fn a_hidden_page_asks_for_nothing() {
    let site = Site::serve(samples::fine(3));
    let Some(browser) = open(&site, Script::On) else { return };
    let hide = |hidden: bool| {
        browser.value(&format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}); \
             document.dispatchEvent(new Event('visibilitychange'))"
        ));
    };
    browser.value(
        "globalThis.asked = 0; const ask = fetch; \
         globalThis.fetch = (...what) => { asked += 1; return ask(...what); }",
    );
    hide(true);
    // Everything that makes a visible page ask.
    browser.value("asked = 0; for (let i = 0; i < 9; i++) dispatchEvent(new Event('online'))");
    assert_eq!(browser.value("asked"), 0);
    site.change(|status| status.connections = 7);
    hide(false);
    eventually("a page that is seen again is new", || {
        browser.text("document.getElementById('connections').textContent") == "7"
    });
    assert_ne!(browser.value("asked"), 0);
}

#[test]
fn without_script_the_page_loads_itself_again() {
    let site = Site::serve(samples::half_down(3));
    let Some(browser) = open(&site, Script::Off) else { return };
    assert_eq!(browser.text("document.querySelector('h1').textContent"), "2 of 3 servers are up");
    assert_eq!(browser.value("document.querySelectorAll('button, input').length"), 0);
    site.change(|status| *status = samples::fine(3));
    eventually("the page was loaded again", || {
        browser.text("document.querySelector('h1').textContent") == "3 of 3 servers are up"
    });
    assert_eq!(browser.messages(), Vec::<String>::new());
}

#[test]
fn the_keyboard_sorts_filters_and_unfolds() {
    let site = Site::serve(samples::half_down(20));
    let Some(browser) = open(&site, Script::On) else { return };
    let all = browser.text(SHOWN);
    let reach = |what: &str| {
        eventually("the keyboard gets there", || {
            browser.press("\u{e004}");
            browser.value(&format!("document.activeElement.matches({what})")) == true
        });
        let outline = "getComputedStyle(document.activeElement).outlineStyle";
        assert_ne!(browser.text(outline), "none", "the focus of {what} is visible");
    };
    reach("'#filter'");
    browser.press("www7.");
    assert_eq!(browser.text(SHOWN), "s6");
    // Three times: from the largest, from the smallest, in pen's order.
    browser.press(&"\u{e003}".repeat(5));
    reach("'[data-sort=\"2\"]'");
    browser.press("\u{e007}");
    let head = "document.querySelector('th[aria-sort]')?.ariaSort ?? 'none'";
    assert_eq!(browser.text(head), "descending");
    let figures = "[...document.querySelector('table.servers').tBodies[0].rows]\
                   .map(row => Number(row.cells[2].dataset.v))";
    let shown: Vec<u64> = serde_json::from_value(browser.value(figures)).unwrap();
    assert!(shown.is_sorted_by(|one, next| one >= next) && shown[0] > shown[19], "{shown:?}");
    browser.press("\u{e007}");
    let shown: Vec<u64> = serde_json::from_value(browser.value(figures)).unwrap();
    assert!(shown.is_sorted(), "{shown:?}");
    browser.press("\u{e007}");
    eventually("the order is pen's", || browser.text(SHOWN) == all);
    assert_eq!(browser.text(head), "none");
    assert_eq!(browser.value("document.activeElement.dataset.sort"), "2", "the focus stays");
    browser.value("document.querySelector('[data-state=failed] button').focus()");
    browser.press("\u{e007}");
    let failed = browser.text(SHOWN);
    assert_eq!(failed.split(' ').count(), 8);
    let pressed = "document.activeElement.ariaPressed";
    assert_eq!(browser.text(pressed), "true");
    browser.press("\u{e007}");
    assert_eq!((browser.text(SHOWN), browser.text(pressed)), (all, "false".to_owned()));
    reach("'summary'");
    browser.press("\u{e007}");
    assert_eq!(browser.value("document.querySelector('details').open"), true);
    assert_eq!(browser.messages(), Vec::<String>::new());
}

#[test]
fn nothing_reaches_beyond_the_edge_whatever_the_width_and_the_names() {
    let site = Site::serve(samples::fine(3));
    let Some(browser) = open(&site, Script::On) else { return };
    let beyond = "[...document.querySelectorAll('main :not(path), header *')].filter(element => \
                  !element.closest('.sr, .servers thead') && \
                  element.getBoundingClientRect().right > document.body.clientWidth + \
                  2 * document.body.getBoundingClientRect().left + 1)\
                  .map(element => element.outerHTML.slice(0, 80))";
    let table = "[...document.querySelectorAll('table.servers')].filter(table => \
                 table.getBoundingClientRect().right > \
                 table.closest('section').getBoundingClientRect().right).length";
    let states = [
        samples::fine(3),
        samples::half_down(200),
        samples::every_state(),
        samples::paused(),
        samples::hostile(),
        samples::empty(),
    ];
    for state in states {
        site.change(|status| *status = state);
        // The two widths from which another arrangement applies are the tightest.
        for width in [320, 390, 700, 1001, 1111, 1241, 1280, 2000] {
            browser.look(width, 800, Scheme::Light);
            browser.open(&site.url());
            assert_eq!(browser.value(beyond), json!([]), "at {width} pixels");
            assert_eq!(browser.value(table), json!(0), "the table at {width} pixels");
        }
    }
    assert_eq!(browser.messages(), Vec::<String>::new());
}

#[test]
fn those_who_hear_the_page_hear_tables_headings_and_names() {
    let site = Site::serve(samples::half_down(8));
    let Some(browser) = Browser::start(Script::On) else { return };
    // In the narrow one, servers are cards.
    for width in [1280, 390] {
        browser.look(width, 800, Scheme::Light);
        browser.open(&site.url());
        let heard = browser.heard();
        let names = |role: &str| -> Vec<&str> {
            let parts = heard.iter().filter(|(found, _)| found == role);
            parts.map(|(_, name)| name.as_str()).collect()
        };
        assert!(names("table")[0].starts_with("The servers: "), "at {width}: {:?}", names("table"));
        assert!(names("columnheader").starts_with(&["Server", "State and check", "Connections"]));
        assert!(names("rowheader").contains(&"0 www1.example.org:8080 10.0.0.1"));
        assert_eq!(names("heading")[0], "4 of 8 servers are up");
        for role in ["main", "banner", "contentinfo", "navigation"] {
            assert_eq!(names(role).len(), 1, "{role}");
        }
        for role in ["image", "button", "searchbox", "region", "link", "heading"] {
            let all = names(role);
            assert!(!all.is_empty() && !all.contains(&""), "each {role} has a name: {all:?}");
        }
    }
}

#[test]
fn hostile_names_do_nothing() {
    let site = Site::serve(samples::hostile());
    let Some(browser) = open(&site, Script::On) else { return };
    assert_eq!(browser.value("document.scripts.length"), 1);
    let names = browser.text("document.querySelector('#s0 bdi').textContent");
    assert_eq!(names, "<script>alert(document.cookie)</script>:8080");
    assert_eq!(browser.value("document.querySelectorAll('[onmouseover]').length"), 0);
    // After a renewal by the script, too.
    site.change(|status| status.connections = 7);
    eventually("the page was renewed", || {
        browser.text("document.getElementById('connections').textContent") == "7"
    });
    assert_eq!(browser.value("document.scripts.length"), 1);
    assert_eq!(browser.messages(), Vec::<String>::new());
}

/// The pictures in README.md. `UPDATE_DOCS=1 cargo test -p pen --test it pictures` makes them anew.
#[test]
fn the_pictures_of_the_readme_are_there() {
    let site = Site::serve(samples::showcase());
    let Some(browser) = Browser::start(Script::On) else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    for (name, scheme) in [("page.png", Scheme::Light), ("page-dark.png", Scheme::Dark)] {
        browser.look(1280, 880, scheme);
        browser.open(&site.url());
        let (path, picture) = (folder.join(name), browser.picture());
        if env::var_os("UPDATE_DOCS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &picture).unwrap();
        }
        let committed = fs::read(&path).unwrap();
        // Fonts differ, so only the size is compared.
        assert_eq!(committed[..24], picture[..24], "{name}: a PNG of this size");
        assert!(committed.len() < 200_000, "{name} has {} bytes", committed.len());
    }
}
