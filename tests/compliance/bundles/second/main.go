// A second opinion on a bundle, by code that is none of ours: Go's checksum database is a log of
// the same kind, and its packages note and tlog check signatures, trees and proofs.
//
//	second BUNDLE VKEY [PREVIOUS_CHECKPOINT]
//
// Prints the size and root of the log; any disagreement is an error.
package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type stored []tlog.Hash

func (s stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		found[i] = s[at]
	}
	return found, nil
}

func main() {
	log.SetFlags(0)
	verifier, err := note.NewVerifier(os.Args[2])
	must(err)
	known := note.VerifierList(verifier)
	bundle, err := zip.OpenReader(os.Args[1])
	must(err)
	files := map[string][]byte{}
	for _, entry := range bundle.File {
		reader, err := entry.Open()
		must(err)
		files[entry.Name], err = io.ReadAll(reader)
		must(err)
	}
	manifest(files, known)
	origin, tree := checkpoint(files["log/checkpoint"], known)
	hashes := grown(files["log/hashes.bin"], tree.N)
	root, err := tlog.TreeHash(tree.N, hashes)
	must(err)
	ensure(root == tree.Hash, "the root differs")
	events(files["log/events.jsonl"], tree, hashes)
	meta(files, known)
	if len(os.Args) > 3 {
		kept, err := os.ReadFile(os.Args[3])
		must(err)
		other, old := checkpoint(kept, known)
		ensure(other == origin, "another log")
		proof, err := tlog.ProveTree(tree.N, old.N, hashes)
		must(err)
		must(tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash))
	}
	fmt.Println(tree.N, hex.EncodeToString(tree.Hash[:]))
}

func manifest(files map[string][]byte, known note.Verifiers) {
	signed, err := note.Open(files["manifest.sig"], known)
	must(err)
	sum := sha256.Sum256(files["manifest.json"])
	ensure(strings.HasSuffix(signed.Text, "\n"+hex.EncodeToString(sum[:])+"\n"), "manifest")
	var said struct {
		Files []struct{ Path, SHA256 string }
	}
	must(json.Unmarshal(files["manifest.json"], &said))
	ensure(len(said.Files)+2 == len(files), "files added or removed")
	for _, file := range said.Files {
		sum := sha256.Sum256(files[file.Path])
		ensure(hex.EncodeToString(sum[:]) == file.SHA256, file.Path)
	}
}

func checkpoint(text []byte, known note.Verifiers) (string, tlog.Tree) {
	signed, err := note.Open(text, known)
	must(err)
	lines := strings.Split(signed.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := base64.StdEncoding.DecodeString(lines[2])
	must(err)
	tree := tlog.Tree{N: size}
	copy(tree.Hash[:], root)
	return lines[0], tree
}

func grown(leaves []byte, size int64) stored {
	var hashes stored
	ensure(int64(len(leaves)) == 32*size, "hashes.bin is not as long as the log")
	for n := int64(0); n < size; n++ {
		var leaf tlog.Hash
		copy(leaf[:], leaves[32*n:])
		more, err := tlog.StoredHashesForRecordHash(n, leaf, hashes)
		must(err)
		hashes = append(hashes, more...)
	}
	return hashes
}

func events(lines []byte, tree tlog.Tree, hashes stored) {
	scanner := bufio.NewScanner(bytes.NewReader(lines))
	for scanner.Scan() {
		var event struct {
			Index int64
			Body  json.RawMessage
		}
		must(json.Unmarshal(scanner.Bytes(), &event))
		proof, err := tlog.ProveRecord(tree.N, event.Index, hashes)
		must(err)
		leaf := tlog.RecordHash(event.Body)
		must(tlog.CheckRecord(proof, tree.N, tree.Hash, event.Index, leaf))
	}
	must(scanner.Err())
}

func meta(files map[string][]byte, known note.Verifiers) {
	var said struct {
		Checkpoint, Leaf string
		Index            int64
		Proof            [][]byte
		Salt             []byte
	}
	must(json.Unmarshal(files["log/meta.json"], &said))
	blinded := sha256.Sum256(append(said.Salt, files["log/checkpoint"]...))
	leaf := `{"c":"` + base64.RawURLEncoding.EncodeToString(blinded[:]) + `"}`
	ensure(leaf == said.Leaf, "another checkpoint")
	_, tree := checkpoint([]byte(said.Checkpoint), known)
	var proof tlog.RecordProof
	for _, one := range said.Proof {
		var hash tlog.Hash
		copy(hash[:], one)
		proof = append(proof, hash)
	}
	must(tlog.CheckRecord(proof, tree.N, tree.Hash, said.Index, tlog.RecordHash([]byte(leaf))))
}

func ensure(holds bool, what string) {
	if !holds {
		log.Fatal(what)
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
