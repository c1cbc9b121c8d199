// linearizer checks recorded histories of a key-value store for linearizability, with Porcupine.
//
//	linearizer [-time-limit 30s] [-memory-mb 1024] [-key KEY] [-html FILE] HISTORY...
//
// A history is a file of JSON lines (- is standard input), one operation each; for every history one line of JSON is
// printed. Exit code: 0 all are linearizable, 1 one is not, 2 one was not decided within the limits, 3 bad input.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	exitOk = iota
	exitViolation
	exitUnknown
	exitBadInput
)

type verdict struct {
	History    string     `json:"history"`
	Result     string     `json:"result"` // ok, violation or unknown
	Operations int        `json:"operations"`
	LeftOut    int        `json:"left_out"` // no effect, unanswered reads, reads of weaker levels
	Keys       int        `json:"keys"`
	Seconds    float64    `json:"seconds"`
	Undecided  []string   `json:"undecided"` // keys that the limits cut short
	Violation  *violation `json:"violation"`
	Drawing    string     `json:"drawing,omitempty"`
}

func main() {
	timeLimit := flag.Duration("time-limit", 30*time.Second, "for one history; a key gets an equal share of what is left")
	memory := flag.Int64("memory-mb", 1024, "for the search of one key")
	only := flag.String("key", "", "check this key alone (and draw it, with -html)")
	drawing := flag.String("html", "", "draw the key that is not linearizable into this file")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: linearizer [flags] HISTORY...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 || *timeLimit <= 0 || *memory <= 0 {
		flag.Usage()
		os.Exit(exitBadInput)
	}
	code := exitOk
	output := json.NewEncoder(os.Stdout)
	for _, path := range flag.Args() {
		result, err := judge(path, *only, *drawing, *timeLimit, *memory<<20)
		if err == nil {
			err = output.Encode(result)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "linearizer:", err)
			os.Exit(exitBadInput)
		}
		if result.Result == "violation" || result.Result == "unknown" && code == exitOk {
			code = map[string]int{"violation": exitViolation, "unknown": exitUnknown}[result.Result]
		}
	}
	os.Exit(code)
}

// judge checks one history key by key, those with few ambiguous operations first.
func judge(path, only, drawing string, limit time.Duration, bytes int64) (*verdict, error) {
	start := time.Now()
	keys, leftOut, err := readHistory(path)
	if err != nil {
		return nil, err
	}
	if only != "" {
		if keys[only] == nil {
			return nil, fmt.Errorf("%s has no operation on key %q", path, only)
		}
		keys = map[string][]*operation{only: keys[only]}
	}
	within := limits{deadline: time.Now().Add(limit), bytes: bytes}
	result := &verdict{History: path, Result: "ok", LeftOut: leftOut, Keys: len(keys), Undecided: []string{}}
	order := byEase(keys)
	for index, key := range order {
		result.Operations += len(keys[key])
		if result.Violation != nil {
			continue
		}
		share := time.Until(within.deadline) / time.Duration(len(order)-index)
		switch check(keys[key], share, bytes) {
		case porcupine.Illegal:
			found := explain(key, keys[key], within)
			result.Result, result.Violation = "violation", &found
		case porcupine.Unknown:
			result.Undecided = append(result.Undecided, key)
		}
	}
	if result.Violation == nil && len(result.Undecided) > 0 {
		result.Result = "unknown"
	}
	result.Seconds = time.Since(start).Seconds()
	if drawing != "" {
		err = draw(result, keys[only], drawing, within)
	}
	return result, err
}

func draw(result *verdict, ops []*operation, path string, within limits) error {
	if result.Violation != nil {
		ops = result.Violation.part
	}
	if ops == nil {
		return nil // Nothing to show: no violation, and no key was asked for.
	}
	_, info := search(ops, max(time.Second, time.Until(within.deadline)), within.bytes, true)
	result.Drawing = path
	return porcupine.VisualizePath(model(&budget{steps: within.bytes}), info, path)
}

func byEase(keys map[string][]*operation) []string {
	order, ambiguous := []string{}, map[string]int{}
	for key, ops := range keys {
		order = append(order, key)
		for _, op := range ops {
			if op.ambiguous() {
				ambiguous[key]++
			}
		}
	}
	sort.Slice(order, func(a, b int) bool {
		if ambiguous[order[a]] != ambiguous[order[b]] {
			return ambiguous[order[a]] < ambiguous[order[b]]
		}
		return order[a] < order[b]
	})
	return order
}
