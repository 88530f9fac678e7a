// SPDX-License-Identifier: Apache-2.0
//! The screen in several sizes, on a terminal of memory.

use super::*;
use crate::stats::tests::report;
use crate::top::sampler::News;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const PLAIN: Theme = Theme { colours: false };

/// A VM with this name after two answers, a second apart.
fn hear(model: &mut Model, name: &str) {
    for second in 0..2 {
        let mut next = report();
        next.name = name.parse().unwrap();
        next.time_ns += second * 1_000_000_000;
        next.devices[0].total.requests += second * 1234;
        next.processes[0].usage.cpu_ns = Some(second * 255_000_000);
        next.processes[0].usage.sandbox = Some(Sandbox {
            uid: 100_007,
            seccomp: true,
            no_new_privs: true,
            no_capabilities: false,
            pid_namespace: true,
        });
        model.hear(News::Report(Box::new(next)));
    }
}

fn screen(model: &Model, width: u16, height: u16, theme: Theme) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, theme)).unwrap();
    terminal
}

fn lines(model: &Model, width: u16, height: u16) -> Vec<String> {
    let terminal = screen(model, width, height, PLAIN);
    let buffer = terminal.backend().buffer();
    let line = |y| {
        let cells = (0..width).map(|x| buffer[(x, y)].symbol());
        cells.collect::<String>().trim_end().to_owned()
    };
    (0..height).map(line).collect()
}

/// The line that begins with this word, in single blanks.
fn row(lines: &[String], word: &str) -> String {
    let line = lines.iter().find(|line| line.starts_with(word)).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn screen_of_80_by_24_has_everything() {
    let mut model = Model::default();
    hear(&mut model, "web");
    let lines = lines(&model, 80, 24);
    assert_eq!(
        row(&lines, "bulkhead top"),
        "bulkhead top 1 VM q quits, up and down choose"
    );
    assert_eq!(
        row(&lines, "web "),
        "web running 25.5 1.5M 1234 0B 0 0B 1 2"
    );
    assert_eq!(
        row(&lines, "jailer"),
        "jailer 10 25.5 1.5M 0 uid 100007 SNP"
    );
    assert_eq!(row(&lines, "blk disk"), "blk disk\"0 12 - - 1 -");
    assert_eq!(row(&lines, "disk0"), "disk0 1234 0B 0B 3 1 1 backpressured");
    assert_eq!(row(&lines, "net0"), "net0 0/0 0B 0B 0 0 0");
    let graphs = row(&lines, "CPU%");
    assert!(graphs.starts_with("CPU% 25.5 max 25.5"), "{graphs}");
    assert!(lines.last().unwrap().contains('█'), "{lines:#?}");
}

#[test]
fn screen_that_is_wide_spells_the_sandbox_out() {
    let mut model = Model::default();
    hear(&mut model, "web");
    let lines = lines(&model, 200, 60);
    let jailer = row(&lines, "jailer");
    assert_eq!(
        jailer,
        "jailer 10 25.5 1.5M 0 uid 100007 seccomp no-new-privs pid-ns"
    );
}

#[test]
fn screen_of_any_size_is_drawn() {
    let mut model = Model::default();
    for number in 0..50 {
        hear(&mut model, &format!("vm{number:02}"));
    }
    model.choose(40);
    for width in [1, 2, 7, 40, 79, 80, 81, 300] {
        for height in [1, 2, 3, 8, 19, 20, 24, 100] {
            screen(&model, width, height, PLAIN);
        }
    }
    let lines = lines(&model, 80, 24);
    assert!(
        !row(&lines, "vm40").is_empty(),
        "the chosen one is in sight"
    );
}

#[test]
fn screen_without_vms_says_why() {
    let mut model = Model::default();
    assert_eq!(lines(&model, 80, 24)[1], "there are no VMs");
    model.hear(News::Blind("state-dir \"/x\"".into()));
    assert_eq!(lines(&model, 80, 24)[1], "state-dir \"/x\"");
}

#[test]
fn vm_that_does_not_answer_says_why() {
    let mut model = Model::default();
    hear(&mut model, "web");
    model.hear(News::Silent("web".parse().unwrap(), "no answer".into()));
    let lines = lines(&model, 80, 24);
    assert!(row(&lines, "web ").contains("silent"));
    assert!(lines.iter().any(|line| line.starts_with(" web: no answer")));
}

#[test]
fn colours_are_there_only_if_wanted() {
    let mut model = Model::default();
    hear(&mut model, "web");
    for colours in [true, false] {
        let terminal = screen(&model, 80, 24, Theme { colours });
        let cells = terminal.backend().buffer().content();
        let painted = cells.iter().any(|cell| cell.fg != Color::Reset);
        assert_eq!(painted, colours);
    }
}
