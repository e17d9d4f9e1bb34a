// Renders Ollama TEMPLATEs as Ollama's template package does (read at 2026-08), with nothing but the
// standard library: JSON in, [{"template": "…", "messages": [{"role": "…", "content": "…"}]}], and
// JSON out, [{"text": "…"}] or [{"error": "…"}], in order. Written for checking; the product never runs it.
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
)

type message struct {
	Role, Content, Thinking string
	Images                  []string
	ToolCalls               []any
	ToolName, ToolCallID    string
}

type request struct {
	Template string    `json:"template"`
	Messages []message `json:"messages"`
}

type answer struct {
	Text  string `json:"text"`
	Error string `json:"error,omitempty"`
}

var functions = template.FuncMap{
	"json":             func(v any) string { b, _ := json.Marshal(v); return string(b) },
	"currentDate":      func(...string) string { return time.Now().Format("2006-01-02") },
	"yesterdayDate":    func(...string) string { return time.Now().AddDate(0, 0, -1).Format("2006-01-02") },
	"toTypeScriptType": func(any) string { return "any" },
}

// names lists, in lower case, the fields and variables that a node mentions.
func names(node parse.Node, found map[string]bool) {
	branch := func(b *parse.BranchNode) {
		names(b.Pipe, found)
		names(b.List, found)
		if b.ElseList != nil {
			names(b.ElseList, found)
		}
	}
	switch n := node.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			names(child, found)
		}
	case *parse.ActionNode:
		names(n.Pipe, found)
	case *parse.TemplateNode:
		if n.Pipe != nil {
			names(n.Pipe, found)
		}
	case *parse.IfNode:
		branch(&n.BranchNode)
	case *parse.RangeNode:
		branch(&n.BranchNode)
	case *parse.WithNode:
		branch(&n.BranchNode)
	case *parse.PipeNode:
		for _, command := range n.Cmds {
			for _, argument := range command.Args {
				names(argument, found)
			}
		}
	case *parse.FieldNode:
		for _, name := range n.Ident {
			found[strings.ToLower(name)] = true
		}
	case *parse.VariableNode:
		for _, name := range n.Ident {
			found[strings.ToLower(name)] = true
		}
	}
}

// collate joins the system texts, and neighbours of one role.
func collate(messages []message) (string, []*message) {
	var system []string
	var made []*message
	for i := range messages {
		m := messages[i]
		if m.Role == "system" {
			system = append(system, m.Content)
		}
		if last := len(made) - 1; last >= 0 && made[last].Role == m.Role && m.Role != "tool" {
			made[last].Content += "\n\n" + m.Content
		} else {
			made = append(made, &m)
		}
	}
	return strings.Join(system, "\n\n"), made
}

// cutAfterResponse drops whatever follows {{ .Response }} (kept itself); it says whether that was met.
func cutAfterResponse(list *parse.ListNode) bool {
	for i, node := range list.Nodes {
		cut := false
		switch n := node.(type) {
		case *parse.ActionNode:
			found := map[string]bool{}
			names(n.Pipe, found)
			cut = found["response"]
		case *parse.IfNode:
			cut = cutBranches(&n.BranchNode)
		case *parse.WithNode:
			cut = cutBranches(&n.BranchNode)
		case *parse.RangeNode:
			cut = cutBranches(&n.BranchNode)
		}
		if cut {
			list.Nodes = list.Nodes[:i+1]
			return true
		}
	}
	return false
}

func cutBranches(b *parse.BranchNode) bool {
	if cutAfterResponse(b.List) {
		if b.ElseList != nil {
			b.ElseList.Nodes = nil
		}
		return true
	}
	return b.ElseList != nil && cutAfterResponse(b.ElseList)
}

func render(r request) (string, error) {
	t, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(r.Template)
	if err != nil {
		return "", err
	}
	found := map[string]bool{}
	for _, one := range t.Templates() {
		names(one.Tree.Root, found)
	}
	if !found["messages"] && !found["response"] {
		if t, err = t.Parse(r.Template + "{{ .Response }}"); err != nil {
			return "", err
		}
	}
	var out bytes.Buffer
	system, messages := collate(r.Messages)
	if found["messages"] {
		err = t.Execute(&out, map[string]any{
			"System": system, "Messages": messages, "Tools": []any(nil), "Response": "",
			"Think": false, "ThinkLevel": "", "IsThinkSet": false,
		})
		return out.String(), err
	}
	err = legacy(t, messages, &out)
	return out.String(), err
}

// legacy runs a template of .System, .Prompt and .Response once a turn, the last time cut off at the response.
func legacy(t *template.Template, messages []*message, out *bytes.Buffer) error {
	var system, prompt, response string
	turn := func(t *template.Template) error {
		err := t.Execute(out, map[string]any{
			"System": system, "Prompt": prompt, "Response": response,
			"Think": false, "ThinkLevel": "", "IsThinkSet": false,
		})
		system, prompt, response = "", "", ""
		return err
	}
	for _, m := range messages {
		if (m.Role == "system" && (prompt != "" || response != "")) || (m.Role == "user" && response != "") {
			if err := turn(t); err != nil {
				return err
			}
		}
		switch m.Role {
		case "system":
			system = m.Content
		case "user":
			prompt = m.Content
		case "assistant":
			response = m.Content
		}
	}
	root := t.Tree.Root.CopyList()
	cutAfterResponse(root)
	last := template.Must(template.New("").Funcs(functions).AddParseTree("", &parse.Tree{Root: root}))
	return turn(last)
}

func main() {
	var requests []request
	if err := json.NewDecoder(os.Stdin).Decode(&requests); err != nil {
		panic(err)
	}
	answers := make([]answer, len(requests))
	for i, r := range requests {
		text, err := render(r)
		answers[i].Text = text
		if err != nil {
			answers[i].Error = err.Error()
		}
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(answers); err != nil {
		panic(err)
	}
}
