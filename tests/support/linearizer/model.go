package main

import (
	"fmt"
	"hash/fnv"

	"github.com/anishathalye/porcupine"
)

// state is what one key holds. A write whose answer did not tell its revision leaves it open (0): the first operation
// that names it settles it, at or above floor.
type state struct {
	present  bool
	value    string
	revision int64
	floor    int64 // the revision of the last write, or the least that it can have
	unseen   bool  // the last write was ambiguous, and nothing has needed it yet
	ended    bool  // all answers are explained
}

// at tells whether the key can be at a revision (0: absent), and the state in which it is.
func (s state) at(revision int64) (bool, state) {
	switch {
	case revision == 0:
		return !s.present, s
	case !s.present:
		return false, s
	case s.revision != 0:
		return s.revision == revision, s
	case revision < s.floor:
		return false, s
	}
	s.revision, s.floor = revision, revision
	return true, s
}

// write is the next write; revisions only grow, through deletes too.
func (s state) write(value *string, revision int64) (bool, state) {
	next := state{present: value != nil, floor: revision}
	if value != nil {
		next.value, next.revision = *value, revision
	}
	if revision == 0 {
		next.floor = s.floor + 1
	}
	return revision == 0 || revision > s.floor, next
}

// step is the register as the search takes it: whether an operation can come now, and what it leaves.
//
// Ambiguous writes may stand anywhere, which alone would make the search exponential. But one that nothing needs can
// as well stand last. So before the end an ambiguous write must have an effect, and what follows it must depend on it:
// a write that comes regardless of what is there does not. After the end every ambiguous write is fine.
func step(s state, op *operation) (bool, state) {
	if op.Kind == kindEnd {
		s.ended = true
		return true, s
	}
	if op.uncertain() && s.ended {
		return true, s
	}
	regardless := op.Kind == "put" || op.Kind == "delete" && op.Expected == nil && op.uncertain()
	if s.unseen && regardless {
		return false, s
	}
	s.unseen = false
	possible, after := outcome(s, op)
	after.unseen = op.uncertain()
	return possible, after
}

// outcome is the sequential register: whether an operation can have its effect and answer now, and what it leaves.
func outcome(s state, op *operation) (bool, state) {
	if op.Kind == "get" {
		if op.Value == nil {
			return !s.present, s
		}
		if !s.present || s.value != *op.Value {
			return false, s
		}
		if op.Revision == 0 {
			return true, s
		}
		return s.at(op.Revision)
	}
	if op.Outcome == "refused" {
		if op.Expected == nil { // A delete that found nothing to delete.
			return *op.Found == 0 && !s.present, s
		}
		if *op.Found == *op.Expected {
			return false, s
		}
		return s.at(*op.Found)
	}
	held := true
	if op.Expected != nil {
		held, s = s.at(*op.Expected)
	}
	if held && op.Kind == "delete" {
		held = s.present
		if held && op.Found != nil {
			held, s = s.at(*op.Found)
		}
	}
	if !held {
		return false, s
	}
	if op.Kind == "delete" {
		return s.write(nil, op.Revision)
	}
	return s.write(op.Value, op.Revision)
}

// budget bounds the memory of one search: after so many steps every further one is refused, and the search unwinds.
type budget struct {
	steps     int64
	exhausted bool
}

func model(left *budget) porcupine.Model {
	return porcupine.Model{
		Init: func() interface{} { return state{} },
		Step: func(before, input, _ interface{}) (bool, interface{}) {
			if left.steps <= 0 {
				left.exhausted = true
				return false, before
			}
			left.steps--
			possible, after := step(before.(state), input.(*operation))
			return possible, after
		},
		Hash: func(held interface{}) uint64 {
			s := held.(state)
			hash := fnv.New64a()
			hash.Write([]byte(s.value))
			return hash.Sum64() ^ uint64(s.floor)*0x9E3779B97F4A7C15 ^ uint64(s.revision)
		},
		DescribeOperation: func(input, _ interface{}) string {
			op := input.(*operation)
			return fmt.Sprintf("%d: %s", op.line, op)
		},
		DescribeState: func(held interface{}) string { return held.(state).String() },
	}
}

func (s state) String() string {
	switch {
	case !s.present && s.floor == 0:
		return "absent"
	case !s.present:
		return fmt.Sprintf("absent, last written at revision %d", s.floor)
	case s.revision == 0:
		return fmt.Sprintf("%q at a revision from %d up", s.value, s.floor)
	}
	return fmt.Sprintf("%q at revision %d", s.value, s.revision)
}
