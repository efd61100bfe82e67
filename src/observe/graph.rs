//! An inspection as a graph, for tools that draw.

use std::fmt::Write as _;

use super::inspection::{ActorAnswer, ActorKind, Inspection, PolicyReport};

impl Inspection {
    /// The actors and policies as a Mermaid flowchart.
    pub fn to_mermaid(&self) -> String {
        let mut out = "flowchart TD\n".to_owned();
        let graph = Graph::of(self);
        for (nth, label) in graph.labels.iter().enumerate() {
            let label = label.replace('"', "#quot;").replace('\n', "<br>");
            // Writing to a string does not fail.
            let _ = writeln!(out, "    n{nth}[\"{label}\"]");
        }
        for (from, to) in &graph.edges {
            let _ = writeln!(out, "    n{from} --> n{to}");
        }
        out
    }

    /// The actors and policies in Graphviz' language.
    pub fn to_dot(&self) -> String {
        let mut out = "digraph channel {\n    node [shape=box];\n".to_owned();
        let graph = Graph::of(self);
        for (nth, label) in graph.labels.iter().enumerate() {
            let label = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // Writing to a string does not fail.
            let _ = writeln!(out, "    n{nth} [label=\"{label}\"];");
        }
        for (from, to) in &graph.edges {
            let _ = writeln!(out, "    n{from} -> n{to};");
        }
        out.push_str("}\n");
        out
    }
}

/// Boxes by number, and the arrows between them.
#[derive(Default)]
struct Graph {
    labels: Vec<String>,
    edges: Vec<(usize, usize)>,
    /// The boxes of the subchannels, by number.
    subchannels: Vec<(String, usize)>,
}

impl Graph {
    fn of(inspection: &Inspection) -> Self {
        let mut graph = Self::default();
        let channel = graph.add(format!("channel {}\n{}", inspection.target, inspection.state));
        let mut balancer = None;
        for answer in &inspection.actors {
            let (kind, id, state) = match answer {
                ActorAnswer::Answered(report) => (report.actor, &report.id, &*report.state),
                ActorAnswer::Silent { actor, id, .. } => (*actor, id, "has not answered"),
            };
            let name = id.as_ref().map_or_else(|| kind.to_string(), |id| format!("{kind} {id}"));
            let node = graph.add(format!("{name}\n{state}"));
            match (kind, id) {
                (ActorKind::AddrConn, Some(id)) => {
                    let number = id.split(' ').next().unwrap_or(id);
                    graph.subchannels.push((number.to_owned(), node));
                }
                (ActorKind::Balancer, _) => {
                    graph.edges.push((channel, node));
                    balancer = Some(node);
                }
                (
                    ActorKind::Supervisor
                    | ActorKind::ClientConn
                    | ActorKind::Resolver
                    | ActorKind::AddrConn,
                    _,
                ) => graph.edges.push((channel, node)),
            }
        }
        if let (Some(balancer), Some(policy)) = (balancer, &inspection.policy) {
            graph.add_policy(policy, balancer);
        }
        graph
    }

    fn add(&mut self, label: String) -> usize {
        self.labels.push(label);
        self.labels.len() - 1
    }

    fn add_policy(&mut self, policy: &PolicyReport, above: usize) {
        let node = self.add(format!("{}\n{}", policy.policy, policy.connectivity));
        self.edges.push((above, node));
        for id in &policy.subchannels {
            let number = format!("#{id}");
            if let Some((_, subchannel)) = self.subchannels.iter().find(|(it, _)| *it == number) {
                self.edges.push((node, *subchannel));
            }
        }
        policy.children.iter().for_each(|child| self.add_policy(child, node));
    }
}
