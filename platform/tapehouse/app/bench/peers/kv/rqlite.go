package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

const (
	put    = "INSERT OR REPLACE INTO kv(k, v) VALUES(?, ?)"
	get    = "SELECT v FROM kv WHERE k = ?"
	create = "CREATE TABLE IF NOT EXISTS kv (k TEXT PRIMARY KEY, v TEXT NOT NULL) WITHOUT ROWID"
)

type rqlitePeer struct{}

// Send gives one request of many statements to the first endpoint, the leader, and returns its answer.
func send(http_ *http.Client, plan *plan, path string, statements any) ([]byte, error) {
	body, err := json.Marshal(statements)
	if err != nil {
		return nil, err
	}
	answer, err := http_.Post("http://"+plan.endpoints[0]+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	told, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK || bytes.Contains(told, []byte(`"error"`)) {
		return nil, fmt.Errorf("rqlite: %d: %.200s", answer.StatusCode, told)
	}
	return told, nil
}

func (rqlitePeer) fill(plan *plan) error {
	caller := &http.Client{Timeout: patience}
	if _, err := send(caller, plan, "/db/execute", []string{create}); err != nil {
		return err
	}
	for first := 0; first < plan.keys; first += fillTogether {
		var keys []string
		for number := first; number < min(first+fillTogether, plan.keys); number++ {
			keys = append(keys, key(number))
		}
		if err := write(caller, plan, keys); err != nil {
			return err
		}
	}
	return nil
}

func write(caller *http.Client, plan *plan, keys []string) error {
	statements := make([][3]string, len(keys))
	for at, each := range keys {
		statements[at] = [3]string{put, each, plan.value}
	}
	told, err := send(caller, plan, "/db/execute?transaction", statements)
	if err != nil {
		return err
	}
	if done := bytes.Count(told, []byte(`"rows_affected":1`)); done != len(keys) {
		return fmt.Errorf("rqlite: %d of %d keys were written: %.200s", done, len(keys), told)
	}
	return nil
}

func (rqlitePeer) connect(plan *plan) (client, error) {
	caller := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 1, MaxConnsPerHost: 1}}
	if plan.kind == "put" {
		return func(keys []string) error { return write(caller, plan, keys) }, nil
	}
	if !strings.Contains(" none weak linearizable strong ", " "+plan.kind+" ") {
		return nil, fmt.Errorf("rqlite has no read level %q", plan.kind)
	}
	wanted := []byte(`"` + plan.value + `"`)
	return func(keys []string) error {
		statements := make([][2]string, len(keys))
		for at, each := range keys {
			statements[at] = [2]string{get, each}
		}
		told, err := send(caller, plan, "/db/query?level="+plan.kind, statements)
		if err != nil {
			return err
		}
		if found := bytes.Count(told, wanted); found != len(keys) {
			return fmt.Errorf("rqlite: %d of %d keys were found: %.200s", found, len(keys), told)
		}
		return nil
	}, nil
}
