-- Inverted indexes: entry trees with long and with many keys, posting trees that grow, are filled in the middle and lose pages, pending lists of rows
-- that fill part of a page, a page and several.
create extension if not exists pg_trgm;

-- One key in every row, as a posting tree of several leaves: built, then changed row by row.
create table crowd(keys int[] default '{-1}');
copy crowd(keys) from program 'yes "{-1}" | head -n 32000';
copy crowd(keys) from program 'yes "{-1,-2}" | head -n 10000';
create index crowd_keys on crowd using gin (keys) with (fastupdate = off);
-- A posting tree of one full leaf, and others of more: between their rows others are put.
create table between_them(keys int[]);
copy between_them(keys) from program 'yes "{-3,-4,-5}
{-6}" | head -n 14400';
copy between_them(keys) from program 'yes "{-4,-5}
{-6}" | head -n 30000';
create index between_them_keys on between_them using gin (keys) with (fastupdate = off);
-- Many keys of few rows.
create table listed(id int, keys int[], filler text) with (fillfactor = 90);
create index listed_now on listed using gin (keys) with (fastupdate = off);
create index listed_later on listed using gin (keys) with (fastupdate = on, gin_pending_list_limit = 256);
-- Long keys: few fit on a page of the entry tree, leaf or not, and a list of rows that does not fit beside its key becomes a posting tree soon.
create table long_keys(id int, keys text[]);
create index long_keys_now on long_keys using gin (keys) with (fastupdate = off);
create table documents(id int, body tsvector, title text, attributes jsonb);
create index documents_body on documents using gin (body) with (fastupdate = on, gin_pending_list_limit = 64);
create index documents_title on documents using gin (title gin_trgm_ops) with (fastupdate = on, gin_pending_list_limit = 128);
create index documents_attributes on documents using gin (attributes jsonb_path_ops) with (fastupdate = on, gin_pending_list_limit = 4096);
-- Several columns, of which some are null or have no keys.
create table several(a int[], b text[]);
create index several_both on several using gin (a, b) with (fastupdate = off);
create index several_later on several using gin (b, a) with (fastupdate = on, gin_pending_list_limit = 64);

create function long_key(number int, len int) returns text language sql as $$
    select string_agg(md5((number * 1000 + n)::text), '') from generate_series(1, len) n
$$;

create function fill_listed(first int, last int) returns void language sql as $$
    insert into listed select i, array[1000 + i * 7 % 300, 10000 + i / 4], repeat('x', i % 60) from generate_series(first, last) i
$$;

create function fill_long(first int, last int) returns void language sql as $$
    insert into long_keys select i, array[long_key(i, 30 + i % 45), md5((i % 50)::text)] from generate_series(first, last) i
$$;

create function fill_long_common(first int, last int) returns void language sql as $$
    insert into long_keys select i, array[long_key(i / 1000, 81)] from generate_series(first, last) i
$$;

create function fill_documents(first int, last int) returns void language plpgsql as $$
begin
    for i in first..last loop
        insert into documents values (i,
            to_tsvector('simple', (select string_agg('w' || (random() * random() * 900)::int, ' ') from generate_series(1, 5 + i % 20 + 300 * (i % 97 / 96)) n)),
            'title ' || i / 3 || (random() * 1000)::int,
            jsonb_build_object('n', i % 40, 'even', i % 2 = 0, 'tags', (select jsonb_agg((random() * 200)::int) from generate_series(1, i % 6) n)));
    end loop;
end
$$;

create function fill_several(first int, last int) returns void language sql as $$
    insert into several
    select case i % 5 when 0 then null when 1 then '{}' else array[i % 11, i] end,
           case i % 7 when 0 then null when 1 then '{}' when 2 then array[null, 'x'] else array['y' || i % 13, 'z'] end
    from generate_series(first, last) i
$$;

create procedure work(first int, rows int) language plpgsql as $$
declare last int := first + rows - 1;
begin
    insert into crowd select case when i % 3 = 0 then '{-1,-2}'::int[] else '{-1}' end from generate_series(1, rows) i;
    perform fill_listed(first, last);
    perform fill_long(first, first + rows / 40);
    perform fill_long_common(first, first + rows / 7);
    perform fill_documents(first, first + rows / 12);
    perform fill_several(first, first + rows / 8);
    commit;
    update listed set keys = keys || 77 where id % 11 = 3 and id between first and last;
    update documents set title = title || ' again' where id % 5 = 0 and id between first and last;
    commit;
end
$$;

create procedure clean() language plpgsql as $$
declare name text;
begin
    foreach name in array '{listed_later,documents_body,documents_title,documents_attributes,several_later}'::text[] loop
        perform gin_clean_pending_list(name::regclass);
    end loop;
end
$$;

-- Some entries of most pages.
\set some 'delete from listed where id % 7 = 1; delete from long_keys where id % 5 = 1; delete from documents where id % 9 = 4; delete from several where a[1] = 3;'

select setseed(0.25);
call work(1, 700);
:some
vacuum listed, long_keys, documents, several;
call work(2001, 500);
delete from between_them where keys[1] = -6 and ctid < '(150,0)'; vacuum between_them;
insert into between_them select '{-3,-4,-5}' from generate_series(1, 3500); insert into between_them select '{-5}' from generate_series(1, 6000);
-- Leaves of the posting tree that lose all: pages go. Then rows again, between those that are left.
delete from crowd where ctid between '(60,0)' and '(290,0)' or ctid between '(20,0)' and '(30,0)'; vacuum crowd;
call work(3001, 600);
call clean();

checkpoint;
call work(5001, 700);
:some
vacuum listed, long_keys, documents, several;
insert into crowd select '{-1,-2}' from generate_series(1, 2500);
delete from crowd where ctid between '(5,0)' and '(15,0)' or ctid between '(10,0)' and '(70,0)'; delete from crowd where keys[2] = -2 and ctid between '(16,0)' and '(150,0)';
vacuum crowd;
call work(7001, 700);
delete from listed where id between 300 and 5400; delete from documents where id % 3 > 0; delete from long_keys where id % 4 > 0;
vacuum listed, long_keys, documents;
call work(9001, 700);
delete from crowd where ctid > '(60,0)'; vacuum crowd; insert into crowd select from generate_series(1, 3000);
delete from listed where id % 1000 > 3; vacuum listed;
call work(11001, 600);
call clean();
call work(12001, 100);
