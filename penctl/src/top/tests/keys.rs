//! What keys do: order, find, explain, change, leave.

use pen_ipc::message::Outcome;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::{line, press, read, report, shown, typed, view};
use crate::overview::Slot;
use crate::top::model::{AnswerView, Asked, Effect, Mode, Model};

#[test]
fn servers_are_ordered_and_found_and_the_selection_stays_with_its_server() {
    let (mut model, now) = view();
    let order = |model: &Model| -> Vec<String> {
        model.rows().iter().map(|server| server.slot.to_string()).collect()
    };
    typed(&mut model, "jj", now);
    assert_eq!(model.selected, Some(Slot::Number(2)));
    typed(&mut model, "C", now);
    assert_eq!(order(&model), ["1", "0", "4", "3", "2", "emergency"]);
    typed(&mut model, "C", now);
    assert_eq!(order(&model)[0], "2", "again: the other way");
    typed(&mut model, "F", now);
    assert_eq!(order(&model)[0], "2", "it has failed connects");
    typed(&mut model, "S", now);
    assert_eq!(order(&model)[..3], ["2", "3", "1"], "the worst first");
    typed(&mut model, "K", now);
    assert_eq!(order(&model), ["2", "4", "3", "1", "0", "emergency"], "the slow before the fast");
    typed(&mut model, "R", now);
    assert_eq!(order(&model)[0], "0");
    typed(&mut model, "<r", now);
    assert_eq!(model.selected, Some(Slot::Number(2)));
    typed(&mut model, "N/REFUSED", now);
    assert_eq!(order(&model), ["2"], "it is found by its reason, while one types");
    typed(&mut model, "\n", now);
    assert!(shown(&mut model, (80, 24)).contains("only \"REFUSED\""));
    press(&mut model, KeyCode::Esc, now);
    assert_eq!(order(&model).len(), 6);
}

#[test]
fn hundreds_of_servers_scroll() {
    let (mut model, now) = view();
    let mut value = report(4);
    let servers: Vec<Value> = (0..300)
        .map(|number| {
            let port = 1000 + number;
            json!({ "number": number, "address": "10.0.0.1", "port": port, "state": "up" })
        })
        .collect();
    value["servers"] = Value::from(servers);
    model.report(read(&value), now);
    let text = shown(&mut model, (80, 24));
    assert!(text.contains(":1000") && !text.contains(":1299"), "{text}");
    press(&mut model, KeyCode::End, now);
    let text = shown(&mut model, (80, 24));
    assert!(line(&text, "- ").contains("emergency") && text.contains(":1299"), "{text}");
    press(&mut model, KeyCode::PageUp, now);
    press(&mut model, KeyCode::Home, now);
    assert!(shown(&mut model, (80, 24)).contains(":1000"));
    // A server that goes leaves the selection on another.
    press(&mut model, KeyCode::End, now);
    model.report(read(&report(5)), now);
    assert!(model.selected.is_some() && shown(&mut model, (80, 24)).contains("www0."));
}

#[test]
fn a_change_is_asked_about_once_more() {
    let (mut model, now) = view();
    let text = |model: &mut Model| shown(model, (80, 24));
    assert_eq!(typed(&mut model, "jb", now), Effect::None);
    assert!(text(&mut model).contains("server 1 (www1.example.com:8080): seconds without clients"));
    assert_eq!(typed(&mut model, "9x0\n", now), Effect::None, "a letter is no digit");
    let asked = "blacklist server 1 (www1.example.com:8080) for 90 s? [y/N]  server 1 blacklist";
    assert!(text(&mut model).contains(asked), "{}", text(&mut model));
    assert_eq!(typed(&mut model, "n", now), Effect::None);
    assert!(text(&mut model).contains("nothing changed"));
    let asked = Asked { line: "server 1 blacklist 60".into(), answer: AnswerView::Message };
    assert_eq!(typed(&mut model, "b\ny", now), Effect::Ask(asked.clone()), "60 unless told");
    model.answer(&asked, Ok((Outcome::Done, String::new())), now);
    assert!(text(&mut model).contains("done: server 1 blacklist 60"));
    model.answer(&asked, Ok((Outcome::Refused, "server: no\u{1b}[2J".into())), now);
    assert!(text(&mut model).contains("refused: server: no?[2J"));
    // One that is out is brought back.
    typed(&mut model, "jjb\n", now);
    assert!(text(&mut model).contains("bring server 3 (www3"), "{}", text(&mut model));
    let back = Asked { line: "server 3 blacklist 0".into(), answer: AnswerView::Message };
    assert_eq!(typed(&mut model, "y", now), Effect::Ask(back));
    let weight = Asked { line: "server 3 weight 7".into(), answer: AnswerView::Message };
    assert_eq!(typed(&mut model, "w7\ny", now), Effect::Ask(weight));
    assert_eq!(typed(&mut model, "w99999999999999999999999\n", now), Effect::None);
    assert!(text(&mut model).contains("is too large"));
    // The emergency server has no number.
    press(&mut model, KeyCode::End, now);
    assert_eq!(typed(&mut model, "b", now), Effect::None);
    assert!(text(&mut model).contains("the emergency server has no number"));
}

#[test]
fn keys_drain_a_server_take_it_into_maintenance_and_make_it_ready() {
    let (mut model, now) = view();
    let text = |model: &mut Model| shown(model, (100, 24));
    for (keys, question, command) in [
        ("jd", "drain server 1 (www1.example.com:8080)? [y/N]", "server 1 state drain"),
        (
            "m",
            "take server 1 (www1.example.com:8080) into maintenance? [y/N]",
            "server 1 state maint",
        ),
    ] {
        assert_eq!(typed(&mut model, keys, now), Effect::None);
        assert!(text(&mut model).contains(question), "{}", text(&mut model));
        assert_eq!(press(&mut model, KeyCode::Enter, now), Effect::None, "no is the default");
        assert!(text(&mut model).contains("nothing changed"));
        typed(&mut model, &keys[keys.len() - 1..], now);
        let asked = Asked { line: command.into(), answer: AnswerView::Message };
        assert_eq!(typed(&mut model, "y", now), Effect::Ask(asked.clone()));
        let refusal = "server: not carried out: read-only";
        model.answer(&asked, Ok((Outcome::Refused, refusal.into())), now);
        assert!(text(&mut model).contains(&format!("refused: {refusal}")));
    }
    // What is so already is not asked about.
    assert_eq!(typed(&mut model, "u", now), Effect::None);
    assert_eq!(model.mode, Mode::Table);
    let already = "server 1 (www1.example.com:8080) has the state ready already";
    assert!(text(&mut model).contains(already), "{}", text(&mut model));
    typed(&mut model, "ju", now);
    assert!(text(&mut model).contains("ready already; b brings it back"), "{}", text(&mut model));
    let mut value = report(4);
    value["servers"][2]["mode"] = "drain".into();
    model.report(read(&value), now);
    let asked = Asked { line: "server 2 state ready".into(), answer: AnswerView::Message };
    assert_eq!(typed(&mut model, "uy", now), Effect::Ask(asked));
    // A pen that reports no state is asked.
    value["servers"][2]["mode"] = Value::Null;
    model.report(read(&value), now);
    typed(&mut model, "u", now);
    assert!(text(&mut model).contains("make server 2 (www2.example.com:8080) ready? [y/N]"));
    press(&mut model, KeyCode::Esc, now);
    press(&mut model, KeyCode::End, now);
    typed(&mut model, "d", now);
    assert!(text(&mut model).contains("the emergency server has no number"));
}

#[test]
fn the_answers_to_a_question_are_seen_however_long_the_name_is() {
    let (mut model, now) = view();
    let mut value = report(4);
    value["servers"][0]["name"] = "long-name.".repeat(20).into();
    model.report(read(&value), now);
    typed(&mut model, "d", now);
    let text = shown(&mut model, (60, 12));
    assert!(text.trim_end().ends_with("~? [y/N]"), "{text}");
}

#[test]
fn a_command_is_not_sent_for_another_server_than_the_user_saw() {
    let (mut model, now) = view();
    typed(&mut model, "b\n", now);
    let mut value = report(4);
    value["servers"][0]["name"] = "other".into();
    model.report(read(&value), now);
    assert_eq!(typed(&mut model, "y", now), Effect::None);
    assert!(shown(&mut model, (80, 24)).contains("server 0 is another one now"));
}

#[test]
fn a_client_is_explained() {
    let (mut model, now) = view();
    typed(&mut model, "e192.0.2.g\n", now);
    assert!(shown(&mut model, (80, 24)).contains("192.0.2. is no IP address"));
    let asked = Asked { line: "explain 2001:db8::1".into(), answer: AnswerView::Text };
    assert_eq!(typed(&mut model, "e2001:db8::1\n", now), Effect::Ask(asked.clone()));
    let answer = (0..100).map(|number| format!("reason {number}\n")).collect::<String>();
    model.answer(&asked, Ok((Outcome::Done, answer)), now);
    let text = shown(&mut model, (80, 24));
    assert!(text.contains("explain 2001:db8::1") && text.contains("reason 5"), "{text}");
    press(&mut model, KeyCode::PageDown, now);
    let text = shown(&mut model, (80, 24));
    assert!(text.contains("reason 10") && !text.contains("reason 5 "), "{text}");
    typed(&mut model, "x", now);
    assert_eq!(model.mode, Mode::Table);
    model.answer(&asked, Err("gone".into()), now);
    assert!(shown(&mut model, (80, 24)).contains("explain 2001:db8::1: gone"));
}

#[test]
fn leaving_and_stopping_are_effects() {
    let (mut model, now) = view();
    let control = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
    assert_eq!(typed(&mut model, "q", now), Effect::Quit);
    for (letter, effect) in [('c', Effect::Quit), ('z', Effect::Suspend), ('l', Effect::Redraw)] {
        // In a question, too.
        typed(&mut model, "/", now);
        assert_eq!(model.key(control(letter), now), effect);
        press(&mut model, KeyCode::Esc, now);
    }
}
