package main

import (
	"math"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

const shownOperations = 20

// limits of one run; bytes bounds the memory of a single search.
type limits struct {
	deadline time.Time
	bytes    int64
}

// violation is the smallest part of a key's history that no order explains.
type violation struct {
	Key        string      `json:"key"`
	Message    string      `json:"message"`
	Culprits   []described `json:"culprits"`   // operations whose answer nothing explains any more
	Prefix     int         `json:"prefix"`     // operations called by then
	Linearized []described `json:"linearized"` // the end of the longest order that was found
	State      string      `json:"state"`      // and what the key holds after it
	Pending    []described `json:"pending"`    // what cannot follow
	part       []*operation
}

type described struct {
	Line   int    `json:"line"`
	Client string `json:"client"`
	Text   string `json:"text"`
}

func describe(ops []*operation) []described {
	lines := []described{}
	for _, op := range ops {
		lines = append(lines, described{op.line, op.Client, op.String()})
	}
	return lines
}

// check decides one key's history within a time.
func check(ops []*operation, limit time.Duration, bytes int64) porcupine.CheckResult {
	result, _ := search(resolve(ops), limit, bytes, false)
	return result
}

func search(ops []*operation, limit time.Duration, bytes int64, verbose bool) (porcupine.CheckResult, porcupine.LinearizationInfo) {
	if len(ops) == 0 {
		return porcupine.Ok, porcupine.LinearizationInfo{}
	}
	if limit <= 0 {
		return porcupine.Unknown, porcupine.LinearizationInfo{}
	}
	left := &budget{steps: bytes / int64(len(ops)/8+200)}
	history := toPorcupine(ops)
	if verbose {
		result, info := porcupine.CheckOperationsVerbose(model(left), history, limit)
		return result, info
	}
	result := porcupine.CheckOperationsTimeout(model(left), history, limit)
	if result == porcupine.Illegal && left.exhausted {
		result = porcupine.Unknown
	}
	return result, porcupine.LinearizationInfo{}
}

func toPorcupine(ops []*operation) []porcupine.Operation {
	rows := map[string]int{}
	for _, op := range ops {
		if _, known := rows[op.Client]; !known {
			rows[op.Client] = len(rows)
		}
	}
	history := make([]porcupine.Operation, len(ops), len(ops)+1)
	row, last := len(rows), int64(0)
	for index, op := range ops {
		client := rows[op.Client]
		if op.returned() == math.MaxInt64 { // It never ends: its client's next ones would be drawn over it.
			client = row
			row++
		} else {
			last = max(last, op.returned())
		}
		history[index] = porcupine.Operation{ClientId: client, Input: op, Call: op.Call, Output: op, Return: op.returned()}
	}
	end := &operation{Kind: kindEnd}
	return append(history, porcupine.Operation{ClientId: row, Input: end, Call: last + 1, Output: end, Return: last + 2})
}

// prefix is what had happened at a time: operations without an answer by then are ambiguous.
func prefix(ops []*operation, until int64) []*operation {
	part := []*operation{}
	for _, op := range ops {
		if op.Call > until {
			continue
		}
		if op.returned() > until && !op.ambiguous() {
			if op.Kind == "get" {
				continue
			}
			open := *op
			open.Outcome, open.Revision, open.Found, open.Return = "unknown", 0, nil, nil
			op = &open
		}
		part = append(part, op)
	}
	return part
}

// explain shrinks a history that is not linearizable: a prefix of a linearizable history is linearizable too.
func explain(key string, ops []*operation, within limits) violation {
	var ends []int64
	for _, op := range ops {
		if !op.ambiguous() {
			ends = append(ends, op.returned())
		}
	}
	sort.Slice(ends, func(a, b int) bool { return ends[a] < ends[b] })
	low, high := 0, len(ends)-1 // the prefix until ends[high] is known to be illegal
	for low < high {
		middle := (low + high) / 2
		if check(prefix(ops, ends[middle]), time.Until(within.deadline), within.bytes) == porcupine.Illegal {
			high = middle
		} else {
			low = middle + 1
		}
	}
	found := violation{Key: key, part: prefix(ops, ends[high])}
	found.Prefix = len(found.part)
	var culprits []*operation
	for _, op := range found.part {
		if op.returned() == ends[high] {
			culprits = append(culprits, op)
		}
	}
	found.Culprits = describe(culprits)
	found.Message = "no order of the operations on this key explains the answer of its culprit"
	found.longest(within)
	return found
}

// longest fills in the longest order that explains a part of the operations.
func (found *violation) longest(within limits) {
	simple := resolve(found.part)
	limit := time.Until(within.deadline)
	if limit < time.Second { // The verdict stands; this is its illustration.
		limit = time.Second
	}
	_, info := search(simple, limit, within.bytes, true)
	var order []*operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, partial := range partition {
			if len(partial) > len(order) {
				order = make([]*operation, len(partial))
				for index, op := range partial {
					order[index] = op.Input.(*operation)
				}
			}
		}
	}
	held, placed := state{}, map[*operation]bool{}
	for _, op := range order {
		_, held = step(held, op)
		placed[op] = true
	}
	var pending []*operation
	for _, op := range simple {
		if !placed[op] && len(pending) < shownOperations {
			pending = append(pending, op)
		}
	}
	if len(order) > shownOperations {
		order = order[len(order)-shownOperations:]
	}
	found.Linearized, found.State, found.Pending = describe(order), held.String(), describe(pending)
}
