// SPDX-License-Identifier: Apache-2.0
//! The screen: all VMs, the processes and devices of the chosen one, and graphs of its rates.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table, TableState};
use spec::api::{DeviceKind, VmState};

use super::model::{Model, Point, VmView};
use crate::host::Sandbox;
use crate::inspect;
use crate::stats::flags;
use crate::table::bytes;

/// The rows of a graph, with its title.
const GRAPH_ROWS: u16 = 5;

/// Whether to use colours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    colours: bool,
}

impl Theme {
    /// No colours with NO_COLOR (no-color.org), or on a dumb terminal.
    pub(super) fn from_environment() -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colours: !no_color && !dumb,
        }
    }

    fn paint(self, colour: Color) -> Style {
        match self.colours {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }
}

/// Draws the screen.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, theme: Theme) {
    let area = frame.area();
    let count = u16::try_from(model.vms().len()).unwrap_or(u16::MAX);
    let Some(vm) = model.vms().get(model.chosen()) else {
        let [title, rest] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        frame.render_widget(headline(model), title);
        let nothing = model.blind().unwrap_or("there are no VMs");
        frame.render_widget(Paragraph::new(nothing), rest);
        return;
    };
    // The list takes up to a third of the screen; on a low screen there are no graphs.
    let list = count.saturating_add(2).min((area.height / 3).max(4));
    let graphs = if area.height >= 20 { GRAPH_ROWS } else { 0 };
    let devices = match u16::try_from(vm.report.devices.len()) {
        Ok(0) => 0,
        Ok(rows) => rows.saturating_add(2).min((area.height / 4).max(3)),
        Err(_) => area.height / 4,
    };
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(list),
        Constraint::Min(3),
        Constraint::Length(devices),
        Constraint::Length(graphs),
    ]);
    let [title, top, middle, bottom, last] = rows.areas(area);
    frame.render_widget(headline(model), title);
    let mut state = TableState::default().with_selected(model.chosen());
    frame.render_stateful_widget(vms(model, theme), top, &mut state);
    frame.render_widget(processes(vm, theme, middle.width), middle);
    frame.render_widget(device_table(vm, theme), bottom);
    draw_graphs(frame, vm, theme, last);
}

fn headline(model: &Model) -> Line<'static> {
    let count = model.vms().len();
    let vms = if count == 1 { "VM" } else { "VMs" };
    Line::styled(
        format!("bulkhead top   {count} {vms}   q quits, up and down choose"),
        Modifier::BOLD,
    )
}

/// Thousandths of a processor as percent.
fn percent(thousandths: u64) -> String {
    format!("{}.{}", thousandths / 10, thousandths % 10)
}

fn header<const N: usize>(cells: [&'static str; N]) -> Row<'static> {
    Row::new(cells).style(Modifier::BOLD)
}

fn titled(title: String) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(title)
}

fn vms(model: &Model, theme: Theme) -> Table<'static> {
    let rows = model.vms().iter().map(|vm| {
        let now = vm.now();
        let (word, colour) = match (&vm.silent, vm.report.state) {
            (Some(_), _) => ("silent", Color::Red),
            (None, VmState::Running) => ("running", Color::Green),
            (None, state) => (inspect::state(state), Color::Yellow),
        };
        Row::new([
            Cell::new(vm.report.name.to_string()),
            Cell::new(word).style(theme.paint(colour)),
            Cell::new(percent(now.cpu)),
            Cell::new(bytes(vm.memory_bytes())),
            Cell::new(now.iops.to_string()),
            Cell::new(bytes(now.disk_bytes)),
            Cell::new(now.packets.to_string()),
            Cell::new(bytes(now.nic_bytes)),
            Cell::new(vm.restarts().to_string()),
            Cell::new(vm.report.reboots.to_string()),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(5),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(5),
        Constraint::Length(6),
    ];
    Table::new(rows.collect::<Vec<_>>(), widths)
        .header(header([
            "VM", "STATE", "CPU%", "MEM", "IOPS", "DISK/s", "PKT/s", "NET/s", "DIED", "REBOOT",
        ]))
        .row_highlight_style(Modifier::REVERSED)
}

fn processes(vm: &VmView, theme: Theme, width: u16) -> Table<'static> {
    let rates = vm.rates.cpu.iter().copied().chain(std::iter::repeat(None));
    let rows = vm.report.processes.iter().zip(rates).map(|(process, cpu)| {
        let usage = &process.usage;
        let memory = usage.pss_bytes.or(usage.rss_bytes);
        let (sandbox, colour) = sandbox(usage.sandbox, &process.info.role, width);
        Row::new([
            Cell::new(process.info.role.clone()),
            Cell::new(process.info.pid.to_string()),
            Cell::new(cpu.map_or_else(|| "-".into(), percent)),
            Cell::new(memory.map_or_else(|| "-".into(), bytes)),
            Cell::new(process.info.restarts.to_string()),
            Cell::new(sandbox).style(theme.paint(colour)),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(5),
        Constraint::Length(4),
        Constraint::Fill(2),
    ];
    let mut title = format!(" {} ", vm.report.name);
    if let Some(reason) = &vm.silent {
        title = format!(" {}: {reason} ", vm.report.name);
    }
    Table::new(rows.collect::<Vec<_>>(), widths)
        .header(header(["PROCESS", "PID", "CPU%", "MEM", "DIED", "SANDBOX"]))
        .block(titled(title))
}

/// What confines a process, in words or letters, and a colour that tells whether that is all it
/// should be.
fn sandbox(sandbox: Option<Sandbox>, role: &str, width: u16) -> (String, Color) {
    let Some(found) = sandbox else {
        return ("-".into(), Color::Reset);
    };
    let facts = [
        (found.seccomp, "seccomp", "S"),
        (found.no_new_privs, "no-new-privs", "N"),
        (found.no_capabilities, "no-caps", "C"),
        (found.pid_namespace, "pid-ns", "P"),
    ];
    let words = facts.iter().filter(|(holds, ..)| *holds);
    let text: String = match width >= 100 {
        true => words.map(|(_, word, _)| format!(" {word}")).collect(),
        false => {
            let letters: String = words.map(|(.., letter)| *letter).collect();
            format!(" {letters}")
        }
    };
    let closed = facts.iter().all(|(holds, ..)| *holds);
    let colour = match (closed, role) {
        (true, _) => Color::Green,
        // These need more privileges.
        (false, "jailer" | "supervisor") => Color::Reset,
        (false, _) => Color::Yellow,
    };
    (format!("uid {}{text}", found.uid), colour)
}

fn device_table(vm: &VmView, theme: Theme) -> Table<'static> {
    let rows = vm.report.devices.iter().zip(&vm.rates.devices);
    let rows = rows.map(|(device, rates)| {
        let in_flight: u64 = device.queues.iter().map(|q| u64::from(q.in_flight)).sum();
        let requests = match device.kind {
            DeviceKind::Disk => rates.requests.to_string(),
            DeviceKind::Nic => format!("{}/{}", rates.received, rates.sent),
        };
        let errors = device.total.errors;
        let colour = if errors > 0 { Color::Red } else { Color::Reset };
        Row::new([
            Cell::new(device.id.clone()),
            Cell::new(requests),
            Cell::new(bytes(rates.read_bytes)),
            Cell::new(bytes(rates.written_bytes)),
            Cell::new(in_flight.to_string()),
            Cell::new(errors.to_string()).style(theme.paint(colour)),
            Cell::new(device.restarts.to_string()),
            Cell::new(flags(device)).style(theme.paint(Color::Yellow)),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(13),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(4),
        Constraint::Fill(1),
    ];
    Table::new(rows.collect::<Vec<_>>(), widths)
        .header(header([
            "DEVICE",
            "REQ or PKT/s",
            "READ/s",
            "WRITE/s",
            "INFLIGHT",
            "ERRORS",
            "DIED",
            "FLAGS",
        ]))
        .block(Block::new().borders(Borders::TOP))
}

fn draw_graphs(frame: &mut Frame<'_>, vm: &VmView, theme: Theme, area: Rect) {
    type Graph = (&'static str, fn(&Point) -> u64, fn(u64) -> String, Color);
    let graphs: [Graph; 4] = [
        ("CPU%", |p| p.cpu, percent, Color::Green),
        ("IOPS", |p| p.iops, |n| n.to_string(), Color::Cyan),
        (
            "bytes/s",
            |p| p.disk_bytes.saturating_add(p.nic_bytes),
            bytes,
            Color::Blue,
        ),
        (
            "packets/s",
            |p| p.packets,
            |n| n.to_string(),
            Color::Magenta,
        ),
    ];
    let columns: [Rect; 4] = Layout::horizontal([Constraint::Fill(1); 4])
        .spacing(1)
        .areas(area);
    for ((name, value, tell, colour), column) in graphs.into_iter().zip(columns) {
        // As many values as fit, the latest at the right.
        let room = usize::from(column.width);
        let skipped = vm.history.len().saturating_sub(room);
        let values = vm.history.iter().skip(skipped).map(value);
        let padding = room.saturating_sub(vm.history.len());
        let data: Vec<u64> = std::iter::repeat_n(0, padding).chain(values).collect();
        let top = data.iter().copied().max().unwrap_or(0);
        let title = format!("{name} {} max {}", tell(value(&vm.now())), tell(top));
        let graph = Sparkline::default()
            .block(titled(title))
            .style(theme.paint(colour))
            .data(data)
            .max(top.max(1));
        frame.render_widget(graph, column);
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
