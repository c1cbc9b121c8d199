package main

// resolve makes certain the ambiguous writes whose value was read and can have come from nowhere else: such a write is
// as good as answered at the first return of a read. The verdict stays the same, and the search has less to try.
func resolve(ops []*operation) []*operation {
	writers := map[string]int{}
	readers := map[string][]*operation{}
	for _, op := range ops {
		switch {
		case op.Kind == "get" && op.Value != nil:
			readers[*op.Value] = append(readers[*op.Value], op)
		case (op.Kind == "put" || op.Kind == "put-if") && op.Outcome != "refused":
			writers[*op.Value]++
		}
	}
	resolved := make([]*operation, len(ops))
	for index, op := range ops {
		resolved[index] = op
		if !op.ambiguous() || op.Kind == "delete" || writers[*op.Value] != 1 || len(readers[*op.Value]) == 0 {
			continue
		}
		happened := *op
		happened.certain = true
		end := readers[*op.Value][0].returned()
		for _, reader := range readers[*op.Value] {
			end = min(end, reader.returned())
			if happened.Revision == 0 {
				happened.Revision = reader.Revision
			}
		}
		end = max(end, op.Call)
		happened.Return = &end
		resolved[index] = &happened
	}
	return resolved
}
