package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
)

const (
	maxLineBytes     = 8 << 20
	maxOperations    = 2_000_000
	maxOperationsKey = 20_000 // the search keeps a bit of each operation for every step
	kindEnd          = "end"  // of all answers: stands after them, in the search alone
)

// operation is one line of a history. A revision of 0 means that the answer did not tell it.
type operation struct {
	Client   string  `json:"client"`
	Key      string  `json:"key"`
	Kind     string  `json:"kind"`
	Value    *string `json:"value"`    // written or read; a get without one found nothing
	Expected *int64  `json:"expected"` // put-if, delete: the revision that must be there, 0 for absent
	Call     int64   `json:"call"`
	Return   *int64  `json:"return"`
	Outcome  string  `json:"outcome"`
	Revision int64   `json:"revision"` // the write's own, or that of the value that was read
	Found    *int64  `json:"found"`    // refused: the revision that was there; delete: the one that it removed

	// What only the checkers of weaker levels look at; Level also decides what is left out here.
	Level    string `json:"level"`
	Session  string `json:"session"`
	Shard    int64  `json:"shard"`
	Sequence int64  `json:"sequence"`

	line    int
	certain bool // an ambiguous write that somebody read: it did happen
}

// readHistory returns the operations by key, without those that had no effect or promise less, and how many these are.
func readHistory(path string) (map[string][]*operation, int, error) {
	var input io.Reader = os.Stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, 0, err
		}
		defer file.Close()
		input = file
	}
	keys := map[string][]*operation{}
	leftOut, line := 0, 0
	scanner := bufio.NewScanner(input)
	scanner.Buffer(make([]byte, 64<<10), maxLineBytes)
	for scanner.Scan() {
		line++
		if line > maxOperations {
			return nil, 0, fmt.Errorf("%s: more than %d operations", path, maxOperations)
		}
		op := &operation{line: line}
		decoder := json.NewDecoder(bytes.NewReader(scanner.Bytes()))
		decoder.DisallowUnknownFields() // a misspelt field would weaken the check without a word
		if err := decoder.Decode(op); err != nil {
			return nil, 0, fmt.Errorf("%s:%d: %w", path, line, err)
		}
		if err := op.validate(); err != nil {
			return nil, 0, fmt.Errorf("%s:%d: %w", path, line, err)
		}
		if op.ignored() {
			leftOut++
			continue
		}
		keys[op.Key] = append(keys[op.Key], op)
		if len(keys[op.Key]) > maxOperationsKey {
			return nil, 0, fmt.Errorf("%s:%d: key %q has more than %d operations: record over more keys", path, line, op.Key, maxOperationsKey)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, 0, fmt.Errorf("%s:%d: %w", path, line+1, err)
	}
	return keys, leftOut, nil
}

func (op *operation) validate() error {
	refusable := op.Kind == "put-if" || op.Kind == "delete"
	switch {
	case op.Kind != "get" && op.Kind != "put" && op.Kind != "put-if" && op.Kind != "delete":
		return fmt.Errorf("kind %q is none of get, put, put-if, delete", op.Kind)
	case op.Outcome != "ok" && op.Outcome != "refused" && op.Outcome != "unknown" && op.Outcome != "failed":
		return fmt.Errorf("outcome %q is none of ok, refused, unknown, failed", op.Outcome)
	case op.Outcome == "refused" && !refusable:
		return fmt.Errorf("a %s is never refused (say failed where it had no effect)", op.Kind)
	case op.Outcome == "refused" && op.Found == nil:
		return fmt.Errorf("a refused %s says which revision it found", op.Kind)
	case (op.Kind == "put" || op.Kind == "put-if") && op.Value == nil:
		return fmt.Errorf("a %s has a value", op.Kind)
	case op.Kind == "put-if" && op.Expected == nil:
		return fmt.Errorf("a put-if has an expected revision")
	case op.Expected != nil && !refusable:
		return fmt.Errorf("a %s has no expected revision", op.Kind)
	case op.Kind == "delete" && op.Expected != nil && *op.Expected == 0:
		return fmt.Errorf("a delete expects a revision above 0")
	case op.Kind == "get" && op.Value == nil && op.Revision != 0:
		return fmt.Errorf("a get that found nothing has no revision")
	case op.Revision < 0 || op.Expected != nil && *op.Expected < 0 || op.Found != nil && *op.Found < 0:
		return fmt.Errorf("a revision is below zero")
	case op.Outcome == "unknown":
		return nil
	case op.Return == nil:
		return fmt.Errorf("an operation that was answered has a return time")
	case *op.Return < op.Call:
		return fmt.Errorf("the return %d is before the call %d", *op.Return, op.Call)
	}
	return nil
}

// ignored tells of operations that say nothing about linearizability.
func (op *operation) ignored() bool {
	if op.Outcome == "failed" {
		return true
	}
	return op.Kind == "get" && (op.Outcome == "unknown" || op.Level == "session" || op.Level == "eventual")
}

func (op *operation) ambiguous() bool {
	return op.Outcome == "unknown"
}

// uncertain tells of ambiguous writes that nobody is known to have seen.
func (op *operation) uncertain() bool {
	return op.ambiguous() && !op.certain
}

// returned is when the operation had certainly happened: for an ambiguous one, never.
func (op *operation) returned() int64 {
	if op.Return == nil || op.uncertain() {
		return math.MaxInt64
	}
	return *op.Return
}

func (op *operation) String() string {
	revision := func(number *int64) string {
		if number == nil {
			return "any revision"
		} else if *number == 0 {
			return "absent"
		}
		return fmt.Sprintf("revision %d", *number)
	}
	text := op.Kind
	if op.Kind != "get" && op.Value != nil {
		text += fmt.Sprintf(" %q", *op.Value)
	}
	if op.Expected != nil {
		text += " if " + revision(op.Expected)
	}
	switch {
	case op.uncertain():
		text += " -> unknown"
	case op.Outcome == "refused":
		text += " -> refused, found " + revision(op.Found)
	case op.Kind == "get" && op.Value == nil:
		text += " -> absent"
	case op.Kind == "get":
		text += fmt.Sprintf(" -> %q", *op.Value)
	default:
		text += " -> ok"
	}
	if op.Revision != 0 {
		text += fmt.Sprintf(" at revision %d", op.Revision)
	}
	return text
}
