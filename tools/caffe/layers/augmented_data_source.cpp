#include "augmented_data_source.hpp"

#include <lmdb.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "caffe/proto/caffe.pb.h"

namespace prototxt_gen {

namespace {

void check(int status, const std::string& what) {
  if (status != MDB_SUCCESS) {
    throw std::runtime_error(what + ": " + mdb_strerror(status));
  }
}

class LmdbSource : public ImageSource {
 public:
  explicit LmdbSource(const std::string& folder) {
    check(mdb_env_create(&environment_), "cannot open an LMDB");
    try {
      check(mdb_env_open(environment_, folder.c_str(), MDB_RDONLY | MDB_NOTLS | MDB_NOLOCK, 0664),
            "cannot open the LMDB '" + folder + "'");
      // Values stay where they are for as long as this transaction lives.
      check(mdb_txn_begin(environment_, nullptr, MDB_RDONLY, &transaction_), "cannot read the LMDB '" + folder + "'");
      MDB_dbi table;
      check(mdb_dbi_open(transaction_, nullptr, 0, &table), "cannot read the LMDB '" + folder + "'");
      MDB_stat stat;
      check(mdb_stat(transaction_, table, &stat), "cannot read the LMDB '" + folder + "'");
      records_.reserve(stat.ms_entries);
      MDB_cursor* cursor;
      check(mdb_cursor_open(transaction_, table, &cursor), "cannot read the LMDB '" + folder + "'");
      MDB_val key, value;
      int status;
      while ((status = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == MDB_SUCCESS) {
        records_.push_back({static_cast<const char*>(value.mv_data), value.mv_size});
      }
      mdb_cursor_close(cursor);
      if (status != MDB_NOTFOUND) {
        check(status, "cannot read the LMDB '" + folder + "'");
      }
      if (records_.empty()) {
        throw std::runtime_error("the LMDB '" + folder + "' holds no records");
      }
    } catch (...) {
      close();
      throw;
    }
  }
  ~LmdbSource() override { close(); }

  std::uint64_t size() const override { return records_.size(); }
  std::size_t index_bytes() const override { return records_.capacity() * sizeof(records_[0]); }

  void read(std::uint64_t index, ImageRecord* record) const override {
    const Value& value = records_[index];
    caffe::Datum datum;
    if (value.bytes > static_cast<std::size_t>(std::numeric_limits<int>::max()) ||
        !datum.ParseFromArray(value.data, static_cast<int>(value.bytes))) {
      throw std::runtime_error("is not a Datum");
    }
    if (datum.data().empty()) {
      throw std::runtime_error(datum.float_data_size() ? "holds float_data, and pixels must be bytes" : "is empty");
    }
    record->label = datum.label();
    record->encoded = datum.encoded();
    record->channels = datum.channels();
    record->height = datum.height();
    record->width = datum.width();
    record->bytes.swap(*datum.mutable_data());
  }

  // The place in the order of the keys alone tells a key, which is not kept: it is looked for when it is wanted.
  std::string name(std::uint64_t index) const override {
    MDB_txn* transaction;
    MDB_dbi table;
    MDB_cursor* cursor;
    if (mdb_txn_begin(environment_, nullptr, MDB_RDONLY, &transaction) != MDB_SUCCESS) {
      return "";
    }
    std::string found;
    if (mdb_dbi_open(transaction, nullptr, 0, &table) == MDB_SUCCESS &&
        mdb_cursor_open(transaction, table, &cursor) == MDB_SUCCESS) {
      MDB_val key, value;
      std::uint64_t at = 0;
      while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == MDB_SUCCESS) {
        if (at++ == index) {
          found.assign(static_cast<const char*>(key.mv_data), key.mv_size);
          break;
        }
      }
      mdb_cursor_close(cursor);
    }
    mdb_txn_abort(transaction);
    return found;
  }

 private:
  struct Value {
    const char* data;
    std::size_t bytes;
  };

  void close() {
    if (transaction_) {
      mdb_txn_abort(transaction_);
    }
    mdb_env_close(environment_);
  }

  MDB_env* environment_ = nullptr;
  MDB_txn* transaction_ = nullptr;
  std::vector<Value> records_;
};

class ListSource : public ImageSource {
 public:
  ListSource(const std::string& file, const std::string& root_folder) : root_folder_(root_folder) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) {
      throw std::runtime_error("cannot read the list '" + file + "'");
    }
    text_.assign(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    std::size_t line = 0;
    for (std::size_t from = 0; from < text_.size(); from = text_.find('\n', from) + 1) {
      if (text_.find('\n', from) == std::string::npos) {
        text_.push_back('\n');
      }
      ++line;
      Entry entry;
      const Parse parsed = parse(from, &entry);
      if (parsed == Parse::kBad) {
        throw std::runtime_error("line " + std::to_string(line) + " of the list '" + file + "' is not 'path label'");
      }
      if (parsed == Parse::kGood) {
        lines_.push_back(from);
      }
    }
    if (lines_.empty()) {
      throw std::runtime_error("the list '" + file + "' names no image");
    }
    lines_.shrink_to_fit();
  }

  std::uint64_t size() const override { return lines_.size(); }
  std::size_t index_bytes() const override { return text_.capacity() + lines_.capacity() * sizeof(lines_[0]); }

  void read(std::uint64_t index, ImageRecord* record) const override {
    Entry entry;
    parse(lines_[index], &entry);
    std::ifstream stream(root_folder_ + entry.path, std::ios::binary);
    if (!stream) {
      throw std::runtime_error("cannot be opened");
    }
    stream.seekg(0, std::ios::end);
    const std::streamoff bytes = stream.tellg();
    if (bytes <= 0) {
      throw std::runtime_error(bytes == 0 ? "is empty" : "cannot be read");
    }
    record->bytes.resize(static_cast<std::size_t>(bytes));
    stream.seekg(0);
    if (!stream.read(&record->bytes[0], bytes)) {
      throw std::runtime_error("cannot be read");
    }
    record->label = entry.label;
    record->encoded = true;
  }

  std::string name(std::uint64_t index) const override {
    Entry entry;
    parse(lines_[index], &entry);
    return entry.path;
  }

 private:
  struct Entry {
    std::string path;
    int label;
  };
  enum class Parse { kGood, kEmpty, kBad };

  // The label is the last word of a line; the rest is the path.
  Parse parse(std::size_t from, Entry* entry) const {
    const char* const blanks = " \t\r";
    const std::string line = text_.substr(from, text_.find('\n', from) - from);
    const std::size_t last = line.find_last_not_of(blanks);
    if (last == std::string::npos) {
      return Parse::kEmpty;
    }
    const std::size_t gap = line.find_last_of(blanks, last);
    const std::size_t path_end = gap == std::string::npos ? gap : line.find_last_not_of(blanks, gap);
    if (path_end == std::string::npos) {
      return Parse::kBad;
    }
    const std::string label = line.substr(gap + 1, last - gap);
    char* end;
    const long value = std::strtol(label.c_str(), &end, 10);
    if (*end != '\0' || value < std::numeric_limits<int>::min() || value > std::numeric_limits<int>::max()) {
      return Parse::kBad;
    }
    entry->path = line.substr(0, path_end + 1);
    entry->label = static_cast<int>(value);
    return Parse::kGood;
  }

  std::string root_folder_;
  std::string text_;
  std::vector<std::uint64_t> lines_;
};

}  // namespace

std::unique_ptr<ImageSource> open_lmdb(const std::string& folder) {
  return std::unique_ptr<ImageSource>(new LmdbSource(folder));
}

std::unique_ptr<ImageSource> open_list(const std::string& file, const std::string& root_folder) {
  return std::unique_ptr<ImageSource>(new ListSource(file, root_folder));
}

}  // namespace prototxt_gen
